/** One of two linked maps: its points, and how each stands to the other model. */
import type { Tensors } from "../../api/tensors";
import { boundsOf, Grid } from "../map/grid";
import { mix, type Colour } from "../map/colour";
import { USUAL, type Style } from "../map/points";
import type { Box } from "../map/view";

export interface Side {
  grid: Grid;
  /** Rows in the own database and, of the nearest, in the other. */
  row: Int32Array;
  nearest: Int32Array;
  similarity: Float32Array;
  /** Bit 0: no counterpart; bit 1: each other's nearest. */
  state: Uint8Array;
  /** Place of a row among the points. */
  at: Map<number, number>;
}

export function sideOf(tensors: Tensors, letter: "a" | "b"): Side {
  const row = tensors.get(`${letter}_row`, "I32");
  return {
    grid: new Grid(tensors.get(`${letter}_x`, "F32"), tensors.get(`${letter}_y`, "F32")),
    row,
    nearest: tensors.get(`${letter}_nearest`, "I32"),
    similarity: tensors.get(`${letter}_similarity`, "F32"),
    state: tensors.get(`${letter}_state`, "U8"),
    at: new Map([...row].map((row, place) => [row, place])),
  };
}

/** The part of the plane that both maps show. */
export function boxOf(...sides: Side[]): Box {
  const x = Float32Array.from(sides.flatMap(({ grid }) => [grid.box.left, grid.box.right]));
  const y = Float32Array.from(sides.flatMap(({ grid }) => [grid.box.bottom, grid.box.top]));
  return boundsOf(x, y);
}

/** Alone, matched, or in between: near to something that is nearer to something else. */
export const KINDS = ["alone", "matched", "between"] as const;
export type Kind = (typeof KINDS)[number];

export function kindOf(state: number): Kind {
  return state & 1 ? "alone" : state & 2 ? "matched" : "between";
}

/** What is alone lies on top: it is what people look for. */
export function styleOf(side: Side, colours: Record<Kind, Colour>, shown: ReadonlySet<Kind>, paper: Colour): Style {
  const count = side.state.length;
  const colour = new Uint8Array(4 * count);
  const size = new Uint8Array(count).fill(USUAL);
  const layers: number[][] = [[], [], [], []];
  for (let i = 0; i < count; i++) {
    const kind = kindOf(side.state[i]!);
    const on = shown.has(kind);
    const [red, green, blue] = on ? colours[kind] : mix(colours[kind], paper, 0.7);
    colour.set([red, green, blue, on ? 230 : 60], 4 * i);
    layers[on ? 1 + ["between", "matched", "alone"].indexOf(kind) : 0]!.push(i);
  }
  return { colour, size, order: Uint32Array.from(layers.flat()) };
}
