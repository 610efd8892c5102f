/** Where the cards and lines of an attribution graph go; columns from the lowest layer to the class. */
import type { GraphResponse, GraphNode, GraphEdge } from "../../api/types";
import { groupBy } from "./paths";

export interface Card {
  node: GraphNode;
  x: number;
  y: number;
  /** The class is as tall as its lines are wide together. */
  height: number;
}

export interface Line {
  link: GraphEdge;
  /** From the right side of the lower card to the left side of the upper one. */
  path: string;
  width: number;
  /** Its weight as a part of the strongest one. */
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
  cards: Card[];
  lines: Line[];
  /** Lines under this weight are left out, and which part they are of all together. */
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
/** Limits of a line's width, and of the height of the class. */
const WIDEST = 24;
const TALLEST = 170;
/** Lines thinner than this part of the strongest are not drawn. */
const FAINTEST = 0.02;
/** More cards than this in a column, and all are flatter. */
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
  const height = most > MANY ? 38 : 54;
  const free = (room - count * width) / Math.max(1, count - 1);
  const step = width + Math.min(Math.max(free, GAP.least), GAP.most);
  const tall = (nodes: number): number => Math.max(0, nodes * (height + DOWN) - DOWN);
  const perShare = widthPerShare(graph, height - 2 * INSET);
  const ofClass = perShare * sums(graph.edges, "source").ofClass + 2 * INSET;
  const cards = columns.flatMap(({ nodes, layer }, place) => {
    const own = layer ? height : Math.max(height, ofClass);
    // the class stands beside the strongest groups, not in the middle of a long column
    const top = layer ? 0 : Math.max(0, Math.min(tall(most), tall(8)) - own) / 2;
    return nodes.map((node, row) => ({
      node,
      x: place * step,
      y: top + row * (height + DOWN),
      height: own,
    }));
  });
  const { lines, least, missing } = linesOf(graph.edges, cards, width, perShare);
  return {
    width: (count - 1) * step + width,
    height: Math.max(tall(most), ...cards.map((card) => card.y + card.height)),
    card: { width, height },
    columns: columns.map(({ layer }, place) => ({ layer, x: place * step })),
    cards,
    lines,
    least,
    missing,
  };
}

/** Sums of the weights, in size, at one end of the links: of the fullest card, and of the class. */
function sums(
  links: readonly GraphEdge[],
  end: "source" | "target",
): { most: number; ofClass: number } {
  const found = new Map<string, number>();
  for (const link of links)
    found.set(link[end], (found.get(link[end]) ?? 0) + Math.abs(link.weight));
  const ofClass = found.get(CLASS) ?? 0;
  found.delete(CLASS);
  return { most: Math.max(0, ...found.values()), ofClass };
}

/** One scale for all lines, such that those of a card have room beside each other. */
function widthPerShare(graph: GraphResponse, inside: number): number {
  const strongest = Math.max(...graph.edges.map((link) => Math.abs(link.weight)), 1e-12);
  const [up, down] = [sums(graph.edges, "target"), sums(graph.edges, "source")];
  const fullest = Math.max(up.most, down.most, 1e-12);
  return Math.min(WIDEST / strongest, inside / fullest, TALLEST / Math.max(down.ofClass, 1e-12));
}

function linesOf(
  links: readonly GraphEdge[],
  cards: readonly Card[],
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
  const all = sizes.reduce((sum, one) => sum + one, 0);
  const left = sizes.reduce((sum, one) => sum + (one < least ? one : 0), 0);
  return {
    lines: lines.sort((a, b) => a.strength - b.strength), // the strongest are on top
    least,
    missing: all ? left / all : 0,
  };
}

/** Lines meet a card side by side, in the order of the cards at their other ends. */
function ports(
  links: readonly GraphEdge[],
  at: ReadonlyMap<string, Card>,
  perShare: number,
  end: "source" | "target",
  other: "source" | "target",
): Map<GraphEdge, number> {
  const found = new Map<GraphEdge, number>();
  for (const mine of groupBy(links, (link) => link[end]).values()) {
    const card = at.get(mine[0]![end])!;
    const order = mine.toSorted((a, b) => at.get(a[other])!.y - at.get(b[other])!.y);
    const total = order.reduce((sum, link) => sum + perShare * Math.abs(link.weight), 0);
    let y = card.y + (card.height - total) / 2;
    for (const link of order) {
      const width = perShare * Math.abs(link.weight);
      found.set(link, y + width / 2);
      y += width;
    }
  }
  return found;
}

function f(value: number): string {
  return value.toFixed(1);
}
