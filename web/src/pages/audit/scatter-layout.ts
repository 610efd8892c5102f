/** Where the components stand in the plot, and which of them get a label. */
import type { AuditedComponent } from "../../api/types";
import { conceptOf, limitOf, verdictOf, type Limits, type Side, type Verdict } from "./verdict";

/** Beyond so many, points are painted instead of being elements. */
export const MOST_ELEMENTS = 2000;
const LARGEST = 17;
const SMALLEST = 2.2;
const NAMED = 12;

export interface Axis {
  side: Side;
  title: string;
  /** Of the data. */
  low: number;
  high: number;
  ticks: number[];
  /** Where a component counts as aligned; null: there is no such side. */
  line: number | null;
  /** Whether the line can be moved. */
  fixed: boolean;
  of: (component: AuditedComponent) => number;
}

export function axisOf(
  components: readonly AuditedComponent[],
  side: Side,
  limits: Limits,
  range: [number, number] | null,
): Axis {
  const present = components.some((component) => component[side] !== null);
  const fixed = present && limits[side] !== null;
  const of = (entry: AuditedComponent) => {
    if (!present) return entry.max;
    // by chance, each component has a threshold of its own: it is the zero of the axis
    return (entry[side] ?? 0) - (fixed ? 0 : limitOf(entry, side, limits));
  };
  const line = !present ? null : fixed ? limits[side] : 0;
  const values = components.map(of);
  const least = Math.min(...values, line ?? 0);
  const most = Math.max(...values, line ?? 0);
  const pad = 0.07 * (most - least || 1);
  const [low, high] = range ?? [least - pad, most + pad];
  const title = !present
    ? "largest relevance"
    : `best ${side} alignment${fixed ? "" : ", above chance"}`;
  return { side, title, low, high, ticks: ticksOf(low, high), line, fixed, of };
}

/** Round numbers within a range, some five of them. */
function ticksOf(low: number, high: number): number[] {
  const rough = (high - low) / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((item) => item * power).find((item) => item >= rough) ?? rough;
  const first = Math.ceil(low / step);
  return Array.from({ length: Math.floor(high / step) - first + 1 }, (_, i) =>
    Number(((first + i) * step).toPrecision(6)),
  );
}

export interface Dot {
  one: AuditedComponent;
  verdict: Verdict;
  x: number;
  y: number;
  r: number;
}

/** Points in pixels, the largest first, so that small ones lie on top. */
export function dotsOf(
  components: readonly AuditedComponent[],
  limits: Limits,
  x: (component: AuditedComponent) => number,
  y: (component: AuditedComponent) => number,
  width: number,
): Dot[] {
  const largest = Math.min(LARGEST, width / 30);
  const most = Math.max(...components.map((component) => component.max), 1e-9);
  return components
    .map((component) => ({
      component,
      verdict: verdictOf(component, limits),
      x: x(component),
      y: y(component),
      // the area goes with the relevance
      r: Math.max(largest * Math.sqrt(Math.max(component.max, 0) / most), SMALLEST),
    }))
    .sort((a, b) => b.r - a.r); // stable: equal ones stay as they came
}

export interface Label {
  text: string;
  x: number;
  y: number;
  anchor: "start" | "end" | "middle";
  verdict: Verdict;
  component: string;
}

/** Name the most relevant points by the best concept of their verdict, where there is room. */
export function labelsOf(dots: readonly Dot[], width: number, height: number): Label[] {
  const taken: [number, number, number, number][] = [];
  const found: Label[] = [];
  for (const dot of dots) {
    if (found.length >= NAMED) break;
    if (dot.verdict === "unexpected") continue;
    const text = conceptOf(dot.one, dot.verdict);
    if (found.some((label) => label.text === text)) continue; // once is enough
    const wide = 6.1 * text.length + 4;
    const tries: [number, number, Label["anchor"]][] = [
      [dot.x + dot.r + 4, dot.y + 4, "start"],
      [dot.x - dot.r - 4, dot.y + 4, "end"],
      [dot.x, dot.y - dot.r - 5, "middle"],
      [dot.x, dot.y + dot.r + 13, "middle"],
    ];
    for (const [x, y, anchor] of tries) {
      const left = anchor === "start" ? x : anchor === "end" ? x - wide : x - wide / 2;
      const box: [number, number, number, number] = [left, y - 11, left + wide, y + 3];
      if (box[0] < 0 || box[2] > width || box[1] < 0 || box[3] > height) continue;
      const free = taken.every(
        (item) => box[2] < item[0] || box[0] > item[2] || box[3] < item[1] || box[1] > item[3],
      );
      if (!free) continue;
      taken.push(box);
      found.push({ text, x, y, anchor, verdict: dot.verdict, component: dot.one.component });
      break;
    }
  }
  return found;
}

/** The point under the pointer: the smallest that holds it, else the nearest within reach. */
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
