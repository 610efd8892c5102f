/** The verdict of a component for given thresholds. */
import type { AuditedComponent } from "../../api/types";
import type { Verdict } from "../../parts/verdict";

export type Side = "valid" | "spurious";
export const SIDES: readonly Side[] = ["valid", "spurious"];

/** Fixed thresholds; null means the component's own threshold, by chance. */
export type Thresholds = Record<Side, number | null>;

/** The threshold of a component. */
export function thresholdOf(component: AuditedComponent, side: Side, thresholds: Thresholds): number {
  // the server compares in single precision
  return Math.fround(thresholds[side] ?? component[`${side}_threshold`] ?? Infinity);
}

export function verdictOf(component: AuditedComponent, thresholds: Thresholds): Verdict {
  const [valid, spurious] = SIDES.map((side) => {
    const value = component[side];
    return value !== null && value > thresholdOf(component, side, thresholds);
  });
  if (valid) return spurious ? "both" : "valid";
  return spurious ? "spurious" : "unexpected";
}

/** The best concepts of the lists in a verdict. */
export function conceptOf(component: AuditedComponent, verdict: Verdict): string {
  const sides = verdict === "both" ? SIDES : SIDES.filter((side) => side === verdict);
  return sides.map((side) => component[`${side}_concept`]).join(" / ");
}

export function percent(share: number, digits = 0): string {
  return `${(100 * share).toFixed(digits)}\u00a0%`;
}
