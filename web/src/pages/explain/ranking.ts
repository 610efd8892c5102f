/** The components of an image as they are listed: as explained, or ranked again without some. */
import type { ExplainedPart, ExplanationResponse } from "../../api/types";

/** A component in the list. */
export interface Ranked extends ExplainedPart {
  /** Its share before components were removed; null if it was not among the listed ones. */
  was: number | null;
}

export interface RankedLayer {
  layer: string;
  /** Share of the layer's absolute relevance that the listed components have together. */
  share: number;
  parts: Ranked[];
}

/** List the components without `removed` ones, which are last and have lost their share. */
export function ranking(
  before: ExplanationResponse,
  after: ExplanationResponse,
  removed: readonly string[],
): RankedLayer[] {
  return after.layers.map(({ layer, share, components }) => {
    const former = before.layers.find((one) => one.layer === layer)?.components ?? [];
    const shares = new Map(former.map((part) => [part.component, part.share]));
    const gone = former.filter((part) => removed.includes(part.component));
    return {
      layer,
      share,
      parts: [
        ...components.map((part) => ({ ...part, was: shares.get(part.component) ?? null })),
        ...gone.map((part) => ({ ...part, share: 0, relevance: 0, was: part.share })),
      ],
    };
  });
}
