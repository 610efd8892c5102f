/** Layout of the scatter plot: axes, points, and labels. */
import type { AuditedComponent } from "../../api/types";
import type { Verdict } from "../../parts/verdict";
import { conceptOf, thresholdOf, verdictOf, type Thresholds, type Side } from "./verdict";

/** Larger numbers of points are drawn on a canvas instead of as SVG elements. */
export const MAX_SVG_POINTS = 2000;
const LARGEST = 17;
const SMALLEST = 2.2;
const MAX_LABELS = 12;

export interface Axis {
  side: Side;
  title: string;
  /** Of the data. */
  low: number;
  high: number;
  ticks: number[];
  /** Threshold of alignment; null if the list is empty. */
  line: number | null;
  /** Whether the line can be moved. */
  fixed: boolean;
  valueOf: (component: AuditedComponent) => number;
}

export function axisOf(
  components: readonly AuditedComponent[],
  side: Side,
  thresholds: Thresholds,
  range: [number, number] | null,
  relevance = false,
): Axis {
  const present = !relevance && components.some((component) => component[side] !== null);
  const fixed = present && thresholds[side] !== null;
  const valueOf = (component: AuditedComponent) => {
    if (!present) return component.max;
    // thresholds by chance differ between components: the axis is relative to them
    return (component[side] ?? 0) - (fixed ? 0 : thresholdOf(component, side, thresholds));
  };
  const line = !present ? null : fixed ? thresholds[side] : 0;
  const values = components.map(valueOf);
  const least = Math.min(...values, line ?? 0);
  const most = Math.max(...values, line ?? 0);
  const pad = 0.07 * (most - least || 1);
  const [low, high] = range ?? [least - pad, most + pad];
  const title = !present
    ? "largest relevance"
    : `best ${side} alignment${fixed ? "" : ", above chance"}`;
  return { side, title, low, high, ticks: ticksOf(low, high), line, fixed, valueOf };
}

/** About five round numbers within a range. */
function ticksOf(low: number, high: number): number[] {
  const rough = (high - low) / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough) ?? rough;
  const first = Math.ceil(low / step);
  return Array.from({ length: Math.floor(high / step) - first + 1 }, (_, i) =>
    Number(((first + i) * step).toPrecision(6)),
  );
}

export interface Dot {
  component: AuditedComponent;
  verdict: Verdict;
  x: number;
  y: number;
  r: number;
}

/** Points in pixels, the largest first, so that small ones lie on top. */
export function dotsOf(
  components: readonly AuditedComponent[],
  thresholds: Thresholds,
  x: (component: AuditedComponent) => number,
  y: (component: AuditedComponent) => number,
  width: number,
): Dot[] {
  const largest = Math.min(LARGEST, width / 30);
  const most = Math.max(...components.map((component) => component.max), 1e-9);
  return components
    .map((component) => ({
      component,
      verdict: verdictOf(component, thresholds),
      x: x(component),
      y: y(component),
      // the area is proportional to the relevance
      r: Math.max(largest * Math.sqrt(Math.max(component.max, 0) / most), SMALLEST),
    }))
    .sort((a, b) => b.r - a.r); // stable sort
}

export interface Label {
  text: string;
  x: number;
  y: number;
  anchor: "start" | "end" | "middle";
  verdict: Verdict;
  component: string;
}

/** Label the most relevant points with their best concept, where there is room. */
export function labelsOf(dots: readonly Dot[], width: number, height: number): Label[] {
  const taken: [number, number, number, number][] = [];
  const labels: Label[] = [];
  for (const dot of dots) {
    if (labels.length >= MAX_LABELS) break;
    if (dot.verdict === "unexpected") continue;
    const text = conceptOf(dot.component, dot.verdict);
    if (labels.some((label) => label.text === text)) continue; // label each concept once
    const wide = 6.1 * text.length + 4;
    const positions: [number, number, Label["anchor"]][] = [
      [dot.x + dot.r + 4, dot.y + 4, "start"],
      [dot.x - dot.r - 4, dot.y + 4, "end"],
      [dot.x, dot.y - dot.r - 5, "middle"],
      [dot.x, dot.y + dot.r + 13, "middle"],
    ];
    for (const [x, y, anchor] of positions) {
      const left = anchor === "start" ? x : anchor === "end" ? x - wide : x - wide / 2;
      const box: [number, number, number, number] = [left, y - 11, left + wide, y + 3];
      if (box[0] < 0 || box[2] > width || box[1] < 0 || box[3] > height) continue;
      const free = taken.every(
        (other) => box[2] < other[0] || box[0] > other[2] || box[3] < other[1] || box[1] > other[3],
      );
      if (!free) continue;
      taken.push(box);
      labels.push({ text, x, y, anchor, verdict: dot.verdict, component: dot.component.component });
      break;
    }
  }
  return labels;
}

/** The point under the pointer: the smallest that contains it, otherwise the nearest within reach. */
export function dotAt(dots: readonly Dot[], x: number, y: number, reach = 8): Dot | null {
  let best: Dot | null = null;
  let least = Infinity;
  for (const dot of dots) {
    const distance = Math.hypot(dot.x - x, dot.y - y);
    if (distance > Math.max(dot.r, reach)) continue;
    const rank = distance <= dot.r ? dot.r - 1e3 : distance;
    if (rank < least) [best, least] = [dot, rank];
  }
  return best;
}
