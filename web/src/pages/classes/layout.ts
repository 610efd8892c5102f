/** Layout of an attribution graph: nodes and lines in columns from the lowest layer to the class. */
import type { GraphResponse, GraphNode, GraphEdge } from "../../api/types";
import { groupBy } from "./paths";

export interface PlacedNode {
  node: GraphNode;
  x: number;
  y: number;
  /** The class is as high as the total width of its lines. */
  height: number;
}

export interface Line {
  link: GraphEdge;
  /** From the right side of the lower node to the left side of the upper one. */
  path: string;
  width: number;
  /** Weight relative to the strongest line. */
  strength: number;
}

export interface Column {
  x: number;
  layer: GraphResponse["layers"][number] | null;
}

export interface Scene {
  width: number;
  height: number;
  card: { width: number; height: number };
  columns: Column[];
  cards: PlacedNode[];
  lines: Line[];
  /** Lines below this weight are hidden, and their share of the total weight. */
  least: number;
  missing: number;
}

/** Id of the node that stands for the class. */
const CLASS = "target";
const NARROW = 196;
const WIDE = 248;
const GAP = { least: 84, most: 340 };
const DOWN = 8;
const INSET = 5;
/** Maximum width of a line, and maximum height of the class. */
const WIDEST = 24;
const TALLEST = 170;
/** Lines weaker than this, relative to the strongest, are not drawn. */
const FAINTEST = 0.02;
/** Nodes are flatter if a column has more of them. */
const MANY = 14;

export function arrange(graph: GraphResponse, room: number): Scene {
  const columns: { layer: GraphResponse["layers"][number] | null; nodes: GraphNode[] }[] = [
    ...graph.layers.map((layer) => ({
      layer,
      nodes: graph.nodes.filter((node) => node.layer === layer.name),
    })),
    { layer: null, nodes: graph.nodes.filter((node) => !node.layer) },
  ];
  const count = columns.length;
  const most = Math.max(...columns.map((column) => column.nodes.length), 1);
  const width = room / count > WIDE + 1.6 * GAP.least ? WIDE : NARROW;
  const height = most > MANY ? 38 : 64;
  const free = (room - count * width) / Math.max(1, count - 1);
  const step = width + Math.min(Math.max(free, GAP.least), GAP.most);
  const tall = (nodes: number): number => Math.max(0, nodes * (height + DOWN) - DOWN);
  const perShare = widthPerShare(graph, height - 2 * INSET);
  const ofClass = perShare * sums(graph.edges, "source").ofClass + 2 * INSET;
  const cards = columns.flatMap(({ nodes, layer }, index) => {
    const own = layer ? height : Math.max(height, ofClass);
    // place the class beside the strongest groups instead of the middle of a long column
    const top = layer ? 0 : Math.max(0, Math.min(tall(most), tall(8)) - own) / 2;
    return nodes.map((node, row) => ({
      node,
      x: index * step,
      y: top + row * (height + DOWN),
      height: own,
    }));
  });
  const { lines, least, missing } = linesOf(graph.edges, cards, width, perShare);
  return {
    width: (count - 1) * step + width,
    height: Math.max(tall(most), ...cards.map((card) => card.y + card.height)),
    card: { width, height },
    columns: columns.map(({ layer }, index) => ({ layer, x: index * step })),
    cards,
    lines,
    least,
    missing,
  };
}

/** Largest sum of absolute weights at one end of the links over all nodes, and that of the class. */
function sums(
  links: readonly GraphEdge[],
  end: "source" | "target",
): { most: number; ofClass: number } {
  const totals = new Map<string, number>();
  for (const link of links)
    totals.set(link[end], (totals.get(link[end]) ?? 0) + Math.abs(link.weight));
  const ofClass = totals.get(CLASS) ?? 0;
  totals.delete(CLASS);
  return { most: Math.max(0, ...totals.values()), ofClass };
}

/** Common width per share, so that the lines of each node fit beside each other. */
function widthPerShare(graph: GraphResponse, inside: number): number {
  const strongest = Math.max(...graph.edges.map((link) => Math.abs(link.weight)), 1e-12);
  const [up, down] = [sums(graph.edges, "target"), sums(graph.edges, "source")];
  const fullest = Math.max(up.most, down.most, 1e-12);
  return Math.min(WIDEST / strongest, inside / fullest, TALLEST / Math.max(down.ofClass, 1e-12));
}

function linesOf(
  links: readonly GraphEdge[],
  cards: readonly PlacedNode[],
  width: number,
  perShare: number,
): Pick<Scene, "lines" | "least" | "missing"> {
  const at = new Map(cards.map((card) => [card.node.id, card]));
  const sizes = links.map((link) => Math.abs(link.weight));
  const strongest = Math.max(...sizes, 1e-12);
  const least = FAINTEST * strongest;
  const drawn = links.filter((link) => Math.abs(link.weight) >= least);
  const upper = ports(drawn, at, perShare, "source", "target");
  const lower = ports(drawn, at, perShare, "target", "source");
  const lines = drawn.map((link) => {
    const [from, to] = [at.get(link.target)!, at.get(link.source)!];
    const [x0, y0] = [from.x + width, lower.get(link)!];
    const [x1, y1] = [to.x, upper.get(link)!];
    const bend = (x1 - x0) / 2;
    return {
      link,
      path: `M${f(x0)} ${f(y0)}C${f(x0 + bend)} ${f(y0)} ${f(x1 - bend)} ${f(y1)} ${f(x1)} ${f(y1)}`,
      width: Math.max(0.9, perShare * Math.abs(link.weight)),
      strength: Math.abs(link.weight) / strongest,
    };
  });
  const all = sizes.reduce((sum, size) => sum + size, 0);
  const left = sizes.reduce((sum, size) => sum + (size < least ? size : 0), 0);
  return {
    lines: lines.sort((a, b) => a.strength - b.strength), // the strongest are on top
    least,
    missing: all ? left / all : 0,
  };
}

/** Positions of lines at a node: side by side, in the order of the nodes at their other ends. */
function ports(
  links: readonly GraphEdge[],
  at: ReadonlyMap<string, PlacedNode>,
  perShare: number,
  end: "source" | "target",
  other: "source" | "target",
): Map<GraphEdge, number> {
  const totals = new Map<GraphEdge, number>();
  for (const group of groupBy(links, (link) => link[end]).values()) {
    const card = at.get(group[0]![end])!;
    const order = group.toSorted((a, b) => at.get(a[other])!.y - at.get(b[other])!.y);
    const total = order.reduce((sum, link) => sum + perShare * Math.abs(link.weight), 0);
    let y = card.y + (card.height - total) / 2;
    for (const link of order) {
      const width = perShare * Math.abs(link.weight);
      totals.set(link, y + width / 2);
      y += width;
    }
  }
  return totals;
}

function f(value: number): string {
  return value.toFixed(1);
}
