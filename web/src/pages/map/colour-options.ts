/** What points can be coloured by, and what the route asks for. */
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
 * What there is to colour by in a model.
 *
 * @param aligned whether there is a query that components have a similarity to.
 */
export function choicesOf(model: ModelInfo, aligned: boolean): ColourBy[] {
  return COLOURS.filter(
    (option) => (option !== "query" || aligned) && (option !== "relevance" || model.relevance),
  );
}

/** What the route asks for; else the query where there is one, and clusters where not. */
export function colourBy(asked: string | null, model: ModelInfo, aligned: boolean): ColourBy {
  const choices = choicesOf(model, aligned);
  return choices.find((choice) => choice === asked) ?? (aligned ? "query" : "cluster");
}

/** A number of a scale, with three significant digits. */
export function figure(value: number): string {
  return Number.isFinite(value) ? String(+value.toPrecision(3)).replace("-", "−") : "–";
}
