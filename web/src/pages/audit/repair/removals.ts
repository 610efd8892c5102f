/**
 * The components that a repair removes, and why each of them is among them.
 *
 * The choice is a part of the link: `add=layer2:4@reason` adds one, `keep=layer2:4` leaves one in.
 */
import type { AuditedComponent } from "../../../api/types";
import { route } from "../../../state/route.svelte";
import { conceptOf, verdictOf, type Thresholds } from "../verdict";

export interface Removal {
  component: string;
  kind: "audit" | "marked" | "added";
  /** In words. */
  why: string;
}

/** What the audit and a person call spurious; dismissed components are left out. */
export function spuriousOf(
  components: readonly AuditedComponent[],
  thresholds: Thresholds,
  flagged: boolean,
  reviews: Readonly<Record<string, { status: string }>>,
  marked: readonly string[],
): Removal[] {
  const removals = new Map<string, Removal>();
  for (const one of components)
    if (flagged && verdictOf(one, thresholds) === "spurious" && reviews[one.component]?.status !== "dismissed")
      removals.set(one.component, {
        component: one.component,
        kind: "audit",
        why: `matches “${conceptOf(one, "spurious")}” (audit)`,
      });
  for (const component of marked)
    removals.set(component, { component, kind: "marked", why: "marked by you" });
  return [...removals.values()];
}

/** Components that were added in the link. */
export function added(): Removal[] {
  return route.all("add").map((entry) => {
    const cut = entry.indexOf("@");
    const component = cut < 0 ? entry : entry.slice(0, cut);
    return { component, kind: "added", why: cut < 0 ? "added by you" : entry.slice(cut + 1) };
  });
}

/** Whether a component is removed: it is in the repair, and not left in by the link. */
export function isRemoved(component: string): boolean {
  return !route.all("keep").includes(component);
}

/** Add components to the repair, or take them out. */
export function addToRepair(components: readonly string[], why: string): void {
  const others = route.all("add").filter((entry) => !components.includes(entry.split("@")[0]!));
  const keep = route.all("keep").filter((one) => !components.includes(one));
  route.go({ params: { add: [...others, ...components.map((one) => `${one}@${why}`)], keep } }, { replace: true });
}

export function takeOut(removal: Removal): void {
  if (removal.kind === "added")
    route.go(
      { params: { add: route.all("add").filter((entry) => entry.split("@")[0] !== removal.component) } },
      { replace: true },
    );
  else route.go({ params: { keep: [...route.all("keep"), removal.component] } }, { replace: true });
}

export function putBack(component: string): void {
  route.go({ params: { keep: route.all("keep").filter((one) => one !== component) } }, { replace: true });
}
