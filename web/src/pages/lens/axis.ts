/** Axes, colours and numbers that the forms of a figure share. */
import type { ComponentRow } from "../../api/types";

export type Tone = ComponentRow["tone"];

/** Colour of a meaning; without one, that of a series. */
export function colourOf(tone: Tone | undefined, series = 0): string {
  if (!tone || tone === "neutral") return `var(--series-${(series % 8) + 1})`;
  return tone === "weak" ? "var(--faint)" : `var(--${tone})`;
}

/** Colour of a group or series by its name, if that is a meaning, or by its place. */
export function groupColour(name: string, place: number): string {
  const tones: readonly string[] = ["for", "against", "weak", "valid", "spurious", "both", "unexpected"];
  return colourOf(tones.includes(name) ? (name as Tone) : undefined, place);
}

export interface Axis {
  low: number;
  high: number;
  ticks: readonly number[];
  /** Share of the axis at which a value is, from 0 to 1. */
  place: (value: number) => number;
}

type Numbers = readonly (number | null | undefined)[];

/** An axis over some values; `margin` is added on both sides unless there are limits. */
export function axisOf(values: Numbers, limits?: readonly [number, number] | null, margin = 0.06): Axis {
  const known = values.filter((value): value is number => typeof value === "number");
  let low = limits?.[0] ?? known.reduce((least, value) => Math.min(least, value), Infinity);
  let high = limits?.[1] ?? known.reduce((most, value) => Math.max(most, value), -Infinity);
  if (!(low <= high)) [low, high] = [0, 1];
  if (low === high) [low, high] = [low - 0.5, high + 0.5];
  if (!limits) {
    const extra = margin * (high - low);
    [low, high] = [low === 0 ? 0 : low - extra, high === 0 ? 0 : high + extra];
  }
  const step = niceStep((high - low) / 4);
  const ticks: number[] = [];
  for (let tick = Math.ceil(low / step - 1e-9); tick * step <= high + step * 1e-9; tick++)
    ticks.push(Number((tick * step).toPrecision(12)));
  return { low, high, ticks, place: (value) => (value - low) / (high - low) };
}

function niceStep(rough: number): number {
  const power = 10 ** Math.floor(Math.log10(rough));
  return power * ([1, 2, 5].find((factor) => factor * power >= rough) ?? 10);
}

/** A number of a table or an axis. */
export function numberText(value: number | null | undefined): string {
  if (value === null || value === undefined) return "–";
  if (Number.isInteger(value)) return value.toLocaleString("en");
  const size = Math.abs(value);
  if (size >= 1000) return Math.round(value).toLocaleString("en");
  return size < 1e-4 ? value.toExponential(1) : String(Number(value.toPrecision(3)));
}
