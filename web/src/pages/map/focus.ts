/** Which points stand out; the others are dimmed, never hidden. */
import type { MapData } from "./data";

export interface Wanted {
  /** Numbers of layers; empty: all. */
  layers: readonly number[];
  /** Points of a selection. */
  selected: Uint32Array | null;
  /** Points that match a query, while colours say something else. */
  matches: readonly number[] | null;
  /** The cluster that is pointed at in the list. */
  cluster: number | null;
}

/** 1 for each point that stands out, or null when all do. */
export function focusOf(data: MapData, wanted: Wanted): Uint8Array | null {
  const { layers, selected, matches, cluster } = wanted;
  const among = selected ?? matches;
  if (!layers.length && !among && cluster === null) return null;
  const focus = new Uint8Array(data.count);
  if (cluster !== null) {
    for (let i = 0; i < data.count; i++) focus[i] = Number(data.cluster[i] === cluster);
    return focus;
  }
  if (among) for (const point of among) focus[point] = 1;
  else focus.fill(1);
  if (!layers.length) return focus;
  const kept = new Set(layers);
  for (let i = 0; i < data.count; i++) if (!kept.has(data.layer[i]!)) focus[i] = 0;
  return focus;
}
