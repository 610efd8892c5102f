/** Verdicts on components: names, descriptions, and marks. */
export const VERDICTS = ["valid", "both", "spurious", "unexpected"] as const;
export type Verdict = (typeof VERDICTS)[number];

/** How a verdict is called: "unexpected" (the paper) says too little beside a component. */
export function wordOf(verdict: Verdict): string {
  return verdict === "unexpected" ? "not covered" : verdict;
}

export function isVerdict(name: string): name is Verdict {
  return VERDICTS.some((verdict) => verdict === name);
}

export const DESCRIPTIONS: Record<Verdict, string> = {
  valid: "aligned with valid concepts only",
  both: "aligned with valid and with spurious concepts",
  spurious: "aligned with spurious concepts only",
  unexpected: "not covered by your concepts",
};

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
