/** Points of one of two linked maps, and their matches in the other model. */
import type { Tensors } from "../../api/tensors";
import { boundsOf, Grid } from "../map/grid";
import { mix, type Colour } from "../map/colour";
import { NORMAL_SIZE, type Style } from "../map/points";
import type { Box } from "../map/view";

export interface LinkedPoints {
  grid: Grid;
  /** Rows in its own database, and rows of the nearest component in the other. */
  row: Int32Array;
  nearest: Int32Array;
  similarity: Float32Array;
  /** Bit 0: unmatched; bit 1: mutual nearest neighbours. */
  flags: Uint8Array;
  /** Point of each row. */
  at: Map<number, number>;
}

export function readPoints(tensors: Tensors, letter: "a" | "b"): LinkedPoints {
  const row = tensors.get(`${letter}_row`, "I32");
  return {
    grid: new Grid(tensors.get(`${letter}_x`, "F32"), tensors.get(`${letter}_y`, "F32")),
    row,
    nearest: tensors.get(`${letter}_nearest`, "I32"),
    similarity: tensors.get(`${letter}_similarity`, "F32"),
    flags: tensors.get(`${letter}_flags`, "U8"),
    at: new Map([...row].map((row, index) => [row, index])),
  };
}

/** Bounding box of both maps. */
export function boxOf(...sets: LinkedPoints[]): Box {
  const x = Float32Array.from(sets.flatMap(({ grid }) => [grid.box.left, grid.box.right]));
  const y = Float32Array.from(sets.flatMap(({ grid }) => [grid.box.bottom, grid.box.top]));
  return boundsOf(x, y);
}

/** Unmatched, matched (mutual), or in between: a match in one direction only. */
export const MATCH_KINDS = ["unmatched", "matched", "between"] as const;
export type MatchKind = (typeof MATCH_KINDS)[number];

export function matchKindOf(flags: number): MatchKind {
  return flags & 1 ? "unmatched" : flags & 2 ? "matched" : "between";
}

/** Unmatched points are drawn on top. */
export function styleOf(points: LinkedPoints, colours: Record<MatchKind, Colour>, shown: ReadonlySet<MatchKind>, paper: Colour): Style {
  const count = points.flags.length;
  const colour = new Uint8Array(4 * count);
  const size = new Uint8Array(count).fill(NORMAL_SIZE);
  const layers: number[][] = [[], [], [], []];
  for (let i = 0; i < count; i++) {
    const kind = matchKindOf(points.flags[i]!);
    const on = shown.has(kind);
    const [red, green, blue] = on ? colours[kind] : mix(colours[kind], paper, 0.7);
    colour.set([red, green, blue, on ? 230 : 60], 4 * i);
    layers[on ? 1 + ["between", "matched", "unmatched"].indexOf(kind) : 0]!.push(i);
  }
  return { colour, size, order: Uint32Array.from(layers.flat()) };
}
