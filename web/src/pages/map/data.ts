/** Map data of a model from the server: points, labels, and colour values. */
import { bytes, type Options } from "../../api/client";
import { parseTensors } from "../../api/tensors";
import type { ModelInfo } from "../../api/types";
import { Grid } from "./grid";

export interface MapData {
  count: number;
  x: Float32Array;
  y: Float32Array;
  /** Database row of each point's component. */
  row: Int32Array;
  layer: Int16Array;
  /** -1 for none. */
  place: Int16Array;
  grid: Grid;
  /** The point of a row, or null where the component has no examples. */
  pointOf(row: number): number | null;
}

export interface ComponentLabels {
  /** Index of each point's label in `names`; -1 for none. */
  code: Int32Array;
  names: string[];
  /** Name of the saved labels, or `places`. */
  source: string;
}

/** Cached maps by fingerprint. */
const cache = new Map<string, MapData>();
const CACHE_SIZE = 4;

export async function loadMap(model: ModelInfo, options: Options): Promise<MapData> {
  const cached = cache.get(model.fingerprint);
  if (cached) return cached;
  const data = parseMap(await bytes(`models/${model.number}/map`, options));
  cache.set(model.fingerprint, data);
  for (const key of [...cache.keys()].slice(0, -CACHE_SIZE)) cache.delete(key);
  return data;
}

export function parseMap(buffer: ArrayBuffer): MapData {
  const tensors = parseTensors(buffer);
  const [x, y] = [tensors.get("x", "F32"), tensors.get("y", "F32")];
  const row = tensors.get("row", "I32");
  const pointByRow = new Int32Array(row.reduce((largest, value) => Math.max(largest, value), -1) + 1).fill(-1);
  row.forEach((row, point) => (pointByRow[row] = point));
  return {
    count: row.length,
    x,
    y,
    row,
    layer: tensors.get("layer", "I16"),
    place: tensors.get("place", "I16"),
    grid: new Grid(x, y),
    pointOf: (item) => {
      const point = pointByRow[item] ?? -1;
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
  const tensors = parseTensors(
    await bytes(`models/${model.number}/colours`, { ...options, params }),
  );
  return {
    of: tensors.get("value", "F32"),
    title: tensors.metadata.title ?? by,
    low: Number(tensors.metadata.low),
    high: Number(tensors.metadata.high),
    signed: tensors.metadata.signed === "true",
  };
}

/** Alignment of each point with the query; the server returns it by row. */
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
