/** Settings of the graph, as stored in the route. */
export interface GraphSettings {
  minimum: number;
  top: number;
  groups: "label" | "component";
}

/** Steps of the minimum share: finer where most components are. */
export const STEPS = [
  0, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1,
  0.12, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5,
] as const;

export const DEFAULTS: GraphSettings = { minimum: 0.01, top: 16, groups: "label" };

export function settingsOf(read: (key: string) => string | null): GraphSettings {
  const minimum = Number(read("min") ?? DEFAULTS.minimum);
  const top = Number(read("top") ?? DEFAULTS.top);
  return {
    minimum: minimum >= 0 && minimum <= 1 ? minimum : DEFAULTS.minimum,
    top: Number.isInteger(top) && top >= 1 ? top : DEFAULTS.top,
    groups: read("groups") === "component" ? "component" : "label",
  };
}

/** The largest step not above a share. */
export function below(share: number): number {
  return STEPS.findLast((step) => step <= share) ?? 0;
}

/** Index of the step nearest to a share. */
export function stepOf(share: number): number {
  let best = 0;
  STEPS.forEach((step, index) => {
    if (Math.abs(step - share) < Math.abs(STEPS[best]! - share)) best = index;
  });
  return best;
}
