/** Verdicts: descriptions, marks, and the verdict of a component for given thresholds. */
import type { AuditedComponent } from "../../api/types";

export const VERDICTS = ["valid", "both", "spurious", "unexpected"] as const;
export type Verdict = (typeof VERDICTS)[number];
export type Side = "valid" | "spurious";
export const SIDES: readonly Side[] = ["valid", "spurious"];

export const DESCRIPTIONS: Record<Verdict, string> = {
  valid: "aligned with valid concepts only",
  both: "aligned with valid and with spurious concepts",
  spurious: "aligned with spurious concepts only",
  unexpected: "aligned with neither",
};

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

/**
 * The mark of a verdict as an SVG path around 0. Shapes differ, with equal areas, since not everyone
 * can distinguish the colours.
 */
export function markPath(verdict: Verdict, radius: number): string {
  const round = (value: number) => value.toFixed(2);
  if (verdict === "spurious") {
    const half = round((radius * Math.sqrt(Math.PI)) / 2);
    return `M-${half}-${half}H${half}V${half}H-${half}Z`;
  }
  if (verdict === "both") {
    const half = round(radius * Math.sqrt(Math.PI / 2));
    return `M0-${half}L${half} 0L0 ${half}L-${half} 0Z`;
  }
  const r = round(radius);
  return `M-${r} 0A${r} ${r} 0 1 1 ${r} 0A${r} ${r} 0 1 1-${r} 0Z`;
}

/** The best concepts of the lists in a verdict. */
export function conceptOf(component: AuditedComponent, verdict: Verdict): string {
  const sides = verdict === "both" ? SIDES : SIDES.filter((side) => side === verdict);
  return sides.map((side) => component[`${side}_concept`]).join(" / ");
}

export function percent(share: number, digits = 0): string {
  return `${(100 * share).toFixed(digits)}\u00a0%`;
}
