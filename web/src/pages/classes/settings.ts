/** The settings of the graph, as the route holds them. */
export interface Settings {
  minimum: number;
  top: number;
  groups: "label" | "component";
}

/** Least shares that the slider offers: fine where most components are. */
export const STEPS = [
  0, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1,
  0.12, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5,
] as const;

export const USUAL: Settings = { minimum: 0.01, top: 16, groups: "label" };

export function settingsOf(read: (key: string) => string | null): Settings {
  const minimum = Number(read("min") ?? USUAL.minimum);
  const top = Number(read("top") ?? USUAL.top);
  return {
    minimum: minimum >= 0 && minimum <= 1 ? minimum : USUAL.minimum,
    top: Number.isInteger(top) && top >= 1 ? top : USUAL.top,
    groups: read("groups") === "component" ? "component" : "label",
  };
}

/** The largest step that a share reaches. */
export function below(share: number): number {
  return STEPS.findLast((step) => step <= share) ?? 0;
}

/** The place of the step nearest to a share, for the slider. */
export function stepOf(share: number): number {
  let best = 0;
  STEPS.forEach((step, place) => {
    if (Math.abs(step - share) < Math.abs(STEPS[best]! - share)) best = place;
  });
  return best;
}
