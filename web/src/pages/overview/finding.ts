/** What the audit of all classes leads to: the class to look at first. */
import type { StandingResponse, SweepClass, SweepResponse } from "../../api/types";

/** An alarm or a suspicion: there is something to look at. */
export function isFlagged(standing: StandingResponse): boolean {
  return standing.kind === "alarm" || standing.kind === "suspicion";
}

/** The class with the strongest evidence, with a component to look at if no class is flagged. */
export function leadOf(sweep: SweepResponse | null): SweepClass | null {
  const classes = sweep?.classes ?? [];
  return classes.find((entry) => isFlagged(entry.standing)) ?? closest(classes)[0] ?? null;
}

/** Classes that are not flagged but whose spurious concepts claim something, smallest p first. */
export function closest(classes: readonly SweepClass[]): SweepClass[] {
  return classes.filter(
    ({ standing }) => !isFlagged(standing) && standing.p_value !== null && standing.concept !== null,
  );
}
