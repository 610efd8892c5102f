/** The points of a model's map, and the labels of its components, as the server sends them. */
import { bytes, type Options } from "../../api/client";
import { parseTensors } from "../../api/tensors";
import type { ModelInfo } from "../../api/types";
import { Grid } from "./grid";

export interface MapData {
  count: number;
  x: Float32Array;
  y: Float32Array;
  /** Row of each point's component in the database: its key. */
  row: Int32Array;
  layer: Int16Array;
  /** -1: in none. */
  cluster: Int16Array;
  grid: Grid;
  /** The point of a row, or null where the component has no examples. */
  pointOf(row: number): number | null;
}

export interface ComponentLabels {
  /** Place of each point's label in `names`; -1: none. */
  code: Int32Array;
  names: string[];
  /** Name of the kept labels, or `clusters`. */
  source: string;
}

/** Maps that were read, by fingerprint: coming back to the page is instant. */
const known = new Map<string, MapData>();
const KEPT = 4;

export async function loadMap(model: ModelInfo, options: Options): Promise<MapData> {
  const found = known.get(model.fingerprint);
  if (found) return found;
  const made = parseMap(await bytes(`models/${model.number}/map`, options));
  known.set(model.fingerprint, made);
  for (const key of [...known.keys()].slice(0, -KEPT)) known.delete(key);
  return made;
}

export function parseMap(buffer: ArrayBuffer): MapData {
  const tensors = parseTensors(buffer);
  const [x, y] = [tensors.get("x", "F32"), tensors.get("y", "F32")];
  const row = tensors.get("row", "I32");
  const places = new Int32Array(row.reduce((most, one) => Math.max(most, one), -1) + 1).fill(-1);
  row.forEach((row, point) => (places[row] = point));
  return {
    count: row.length,
    x,
    y,
    row,
    layer: tensors.get("layer", "I16"),
    cluster: tensors.get("cluster", "I16"),
    grid: new Grid(x, y),
    pointOf: (item) => {
      const point = places[item] ?? -1;
      return point < 0 ? null : point;
    },
  };
}

export async function loadLabels(model: ModelInfo, options: Options): Promise<ComponentLabels> {
  const tensors = parseTensors(await bytes(`models/${model.number}/map/labels`, options));
  return {
    code: tensors.get("label", "I32"),
    names: JSON.parse(tensors.metadata.names ?? "[]") as string[],
    source: tensors.metadata.source ?? "",
  };
}

export interface ServedValues {
  of: Float32Array;
  title: string;
  low: number;
  high: number;
  signed: boolean;
}

export async function loadValues(
  model: ModelInfo,
  by: string,
  target: number | null,
  options: Options,
): Promise<ServedValues> {
  const params = { by, class: target };
  const found = parseTensors(
    await bytes(`models/${model.number}/colours`, { ...options, params }),
  );
  return {
    of: found.get("value", "F32"),
    title: found.metadata.title ?? by,
    low: Number(found.metadata.low),
    high: Number(found.metadata.high),
    signed: found.metadata.signed === "true",
  };
}

/** Alignment of each point with the query: the server sends that of each row. */
export async function loadAlignment(
  model: ModelInfo,
  data: MapData,
  params: NonNullable<Options["params"]>,
  options: Options,
): Promise<ServedValues> {
  const path = `models/${model.number}/similarity`;
  const all = parseTensors(await bytes(path, { ...options, params })).get("alignment", "F32");
  const of = Float32Array.from(data.row, (row) => all[row] ?? NaN);
  let high = 0;
  for (const value of of) if (value > high) high = value;
  return { of, title: "alignment with the query", low: 0, high, signed: false };
}
