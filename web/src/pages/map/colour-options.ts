/** Colourings of the map, and the one in the route. */
import type { ModelInfo } from "../../api/types";

export const COLOURS = [
  "place",
  "layer",
  "query",
  "verdict",
  "relevance",
  "contrast",
  "clarity",
  "redundancy",
  "polysemanticity",
] as const;
export type ColourBy = (typeof COLOURS)[number];

export const TITLES: Record<ColourBy, string> = {
  place: "place",
  layer: "layer",
  query: "alignment with the query",
  verdict: "verdict for a class",
  clarity: "clarity",
  redundancy: "redundancy",
  polysemanticity: "polysemanticity",
  relevance: "relevance for a class",
  contrast: "errors on a class",
};

/**
 * The colourings that are available for a model.
 *
 * @param aligned whether there is a query with alignments.
 * @param contrasted whether errors on a class were compared with correct predictions.
 */
export function colourOptions(model: ModelInfo, aligned: boolean, contrasted: boolean): ColourBy[] {
  const missing = {
    query: !aligned,
    verdict: !model.relevance,
    relevance: !model.relevance,
    contrast: !contrasted,
  };
  return COLOURS.filter((option) => !(option in missing && missing[option as keyof typeof missing]));
}

/** The colouring in the route; by default the query if there is one, otherwise places. */
export function colourBy(requested: string | null, options: readonly ColourBy[]): ColourBy {
  const usual = options.includes("query") ? "query" : "place";
  return options.find((option) => option === requested) ?? usual;
}

/** Format a number of a scale with three significant digits. */
export function figure(value: number): string {
  return Number.isFinite(value) ? String(+value.toPrecision(3)).replace("-", "−") : "–";
}
