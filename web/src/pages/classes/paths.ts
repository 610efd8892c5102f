/**
 * The paths through a node of the graph, as shares of its relevance.
 *
 * Nearly all nodes of neighbouring layers are connected, so highlighting everything connected would
 * highlight everything. The relevance of a node is therefore divided among its edges by their
 * weights, from layer to layer, up to the class and down to the lowest layer; edges and nodes with
 * a small share are dimmed.
 */
import type { GraphEdge } from "../../api/types";

export interface PathShares {
  /** Share of each node by id. */
  nodes: Map<string, number>;
  links: Map<GraphEdge, number>;
}

/** Smaller shares are dimmed. */
export const MIN_SHARE = 0.04;

export function pathsThrough(id: string, links: readonly GraphEdge[]): PathShares {
  const shares: PathShares = { nodes: new Map([[id, 1]]), links: new Map() };
  propagate(id, "source", "target", links, shares);
  propagate(id, "target", "source", links, shares);
  return shares;
}

function propagate(
  id: string,
  from: "source" | "target",
  to: "source" | "target",
  links: readonly GraphEdge[],
  shares: PathShares,
): void {
  const of = groupBy(links, (link) => link[from]);
  let front = new Map([[id, 1]]);
  while (front.size) {
    const next = new Map<string, number>();
    for (const [node, part] of front) {
      const group = of.get(node) ?? [];
      const total = group.reduce((sum, link) => sum + Math.abs(link.weight), 0);
      for (const link of group) {
        const share = total ? (part * Math.abs(link.weight)) / total : 0;
        shares.links.set(link, share);
        next.set(link[to], (next.get(link[to]) ?? 0) + share);
      }
    }
    for (const [node, part] of next) shares.nodes.set(node, part);
    front = next;
  }
}

export function groupBy<T>(all: readonly T[], key: (item: T) => string): Map<string, T[]> {
  const groups = new Map<string, T[]>();
  for (const item of all) {
    const group = groups.get(key(item));
    if (group) group.push(item);
    else groups.set(key(item), [item]);
  }
  return groups;
}
