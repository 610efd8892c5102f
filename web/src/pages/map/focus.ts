/** Points in focus; the others are dimmed, never hidden. */
import type { MapData } from "./data";

export interface FocusOptions {
  /** Layer numbers; empty means all. */
  layers: readonly number[];
  /** Points of a selection. */
  selected: Uint32Array | null;
  /** Points that match the query, if the colours show something else. */
  matches: readonly number[] | null;
  /** The place hovered in the list. */
  place: number | null;
}

/** 1 for each point in focus; null if all are. */
export function focusOf(data: MapData, options: FocusOptions): Uint8Array | null {
  const { layers, selected, matches, place } = options;
  const among = selected ?? matches;
  if (!layers.length && !among && place === null) return null;
  const focus = new Uint8Array(data.count);
  if (place !== null) {
    for (let i = 0; i < data.count; i++) focus[i] = Number(data.place[i] === place);
    return focus;
  }
  if (among) for (const point of among) focus[point] = 1;
  else focus.fill(1);
  if (!layers.length) return focus;
  const included = new Set(layers);
  for (let i = 0; i < data.count; i++) if (!included.has(data.layer[i]!)) focus[i] = 0;
  return focus;
}
