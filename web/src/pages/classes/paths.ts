/**
 * The paths through one card: how much of what passes it comes from, and goes to, each other.
 *
 * All cards of neighbouring layers are joined by some line, so "everything connected" would be
 * everything. What passes a card is split among its lines by their weights, from layer to layer,
 * up to the class and down to the lowest one; lines and cards with a small part are dimmed.
 */
import type { GraphEdge } from "../../api/types";

export interface Flow {
  /** By id of a card: the part of the flow that passes it. */
  nodes: Map<string, number>;
  links: Map<GraphEdge, number>;
}

/** The least part that is still shown as belonging to the paths. */
export const LEAST = 0.04;

export function through(id: string, links: readonly GraphEdge[]): Flow {
  const flow: Flow = { nodes: new Map([[id, 1]]), links: new Map() };
  spread(id, "source", "target", links, flow);
  spread(id, "target", "source", links, flow);
  return flow;
}

function spread(
  id: string,
  from: "source" | "target",
  to: "source" | "target",
  links: readonly GraphEdge[],
  flow: Flow,
): void {
  const of = groupBy(links, (link) => link[from]);
  let front = new Map([[id, 1]]);
  while (front.size) {
    const next = new Map<string, number>();
    for (const [node, part] of front) {
      const mine = of.get(node) ?? [];
      const total = mine.reduce((sum, link) => sum + Math.abs(link.weight), 0);
      for (const link of mine) {
        const share = total ? (part * Math.abs(link.weight)) / total : 0;
        flow.links.set(link, share);
        next.set(link[to], (next.get(link[to]) ?? 0) + share);
      }
    }
    for (const [node, part] of next) flow.nodes.set(node, part);
    front = next;
  }
}

export function groupBy<T>(all: readonly T[], key: (one: T) => string): Map<string, T[]> {
  const found = new Map<string, T[]>();
  for (const one of all) {
    const mine = found.get(key(item));
    if (mine) mine.push(item);
    else found.set(key(item), [item]);
  }
  return found;
}
