/** The experiments without words that move parts of a class's images to others, in words. */
import type { KeptSwap } from "../../api/types";

export type SwapKind = KeptSwap["kind"];

interface SwapText {
  question: string;
  action: string;
  /** What a class is found to rely on. */
  found: string;
  /** Column title of one size. */
  size: string;
  /** What was moved, before the name of the class. */
  moved: string;
  note: string;
}

export const SWAPS: Record<SwapKind, SwapText> = {
  border: {
    question: "Does a class rely on its surroundings?",
    action: "Swap borders",
    found: "the borders of its images",
    size: "Border",
    moved: "borders of",
    note: "The borders of a class's images are pasted onto images of other classes. Marks in the middle are not found, and a class may rely on its surroundings rightly, as aircraft on the sky.",
  },
  region: {
    question: "Does a class rely on a small mark, anywhere in the image?",
    action: "Swap small regions",
    found: "small regions of its images",
    size: "Area",
    moved: "the most relevant regions of",
    note: "The most relevant 5 % of the pixels of a class's images are pasted onto images of other classes. A finding says that a small part carries the class, not that it is a mark: look at the images.",
  },
  colour: {
    question: "Does a class rely on colours, such as a cast or a lighting?",
    action: "Swap colours",
    found: "the colours of its images",
    size: "Colours",
    moved: "the colours of",
    note: "The colours of a class's images are transferred to images of other classes. A finding says that the colours carry the class, not that this is wrong: leaves are green.",
  },
};
/** Of more classes, the server tests so many. */
const MOST_TESTED = 30;
export const SWAP_KINDS = Object.keys(SWAPS) as SwapKind[];

/** Whether the database keeps a swap of a class or, without one, of all classes. */
export function isKept(
  swaps: readonly KeptSwap[],
  kind: SwapKind,
  target: number | null,
  classes: readonly number[],
): boolean {
  const targets = new Set(swaps.find((one) => one.kind === kind)?.targets);
  if (target !== null) return targets.has(target);
  return targets.size > 0 && targets.size >= Math.min(classes.length, MOST_TESTED);
}
