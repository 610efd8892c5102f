/** Colourings of the map, and the one in the route. */
import type { ModelInfo } from "../../api/types";

export const COLOURS = [
  "cluster",
  "layer",
  "query",
  "clarity",
  "redundancy",
  "polysemanticity",
  "relevance",
] as const;
export type ColourBy = (typeof COLOURS)[number];

export const TITLES: Record<ColourBy, string> = {
  cluster: "cluster",
  layer: "layer",
  query: "similarity to the query",
  clarity: "clarity",
  redundancy: "redundancy",
  polysemanticity: "polysemanticity",
  relevance: "relevance for a class",
};

/**
 * The colourings that are available for a model.
 *
 * @param aligned whether there is a query with alignments.
 */
export function colourOptions(model: ModelInfo, aligned: boolean): ColourBy[] {
  return COLOURS.filter(
    (option) => (option !== "query" || aligned) && (option !== "relevance" || model.relevance),
  );
}

/** The colouring in the route; by default the query if there is one, otherwise clusters. */
export function colourBy(requested: string | null, model: ModelInfo, aligned: boolean): ColourBy {
  const options = colourOptions(model, aligned);
  return options.find((option) => option === requested) ?? (aligned ? "query" : "cluster");
}

/** Format a number of a scale with three significant digits. */
export function figure(value: number): string {
  return Number.isFinite(value) ? String(+value.toPrecision(3)).replace("-", "−") : "–";
}
