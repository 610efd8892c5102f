/** What the route asks of the component table, and its columns. */
import type { Params } from "../../api/client";
import type { ComponentPage, ComponentRow, ModelInfo } from "../../api/types";
import { layerNames } from "../../state/models.svelte";
import { route } from "../../state/route.svelte";

export interface Column {
  key: keyof ComponentRow;
  title: string;
  /** What it means, for who points at the heading. */
  help: string;
  kind: "text" | "count" | "share" | "number" | "measure";
  /** Whether the first click on the heading sorts from high to low. */
  falls: boolean;
  /** In rem. */
  width: number;
}

const COLUMNS: readonly Column[] = [
  { key: "component", title: "Component", help: "Layer and number", kind: "text", falls: false, width: 8.2 },
  { key: "label", title: "Label", help: "From the newest labels that are kept", kind: "text", falls: false, width: 9 },
  { key: "examples", title: "Examples", help: "Concept examples that it has", kind: "count", falls: true, width: 5.8 },
  { key: "firing_rate", title: "Fires on", help: "Share of the images on which its readout is above zero", kind: "share", falls: true, width: 5.2 },
  { key: "maximum", title: "Maximum", help: "Largest readout of all images", kind: "number", falls: true, width: 6 },
  { key: "clarity", title: "Clarity", help: "Mean cosine of all pairs of examples: high is clear", kind: "measure", falls: true, width: 6.2 },
  { key: "redundancy", title: "Redundancy", help: "Largest cosine with another one of its layer: low is unique", kind: "measure", falls: true, width: 7 },
  { key: "polysemanticity", title: "Polysemanticity", help: "One less the cosine of the halves of its examples: low is one sense", kind: "measure", falls: true, width: 9 },
];

const RELEVANCE: readonly Column[] = [
  { key: "relevance_mean", title: "Relevance", help: "Mean share of its layer's relevance for the class", kind: "share", falls: true, width: 6.2 },
  { key: "relevance_max", title: "at most", help: "Its share on the image where it is largest", kind: "share", falls: true, width: 5 },
];

/** The columns that a page of the table has something to say in. */
export function columnsOf(model: ModelInfo, page: ComponentPage): readonly Column[] {
  const [name, label, ...others] = COLUMNS as readonly [Column, Column, ...Column[]];
  const shares = page.relevance === null ? [] : RELEVANCE;
  const longest = Math.max(...model.layers.map((one) => `${one.name}:-${one.channels}`.length));
  // names are never cut off: layers of some models are called by a whole path
  const width = Math.max(name.width, 0.475 * longest + 1.5);
  return [{ ...name, width }, ...(page.labels === null ? [] : [label]), ...shares, ...others];
}

export interface Sorted {
  sort: string;
  descending: boolean;
}

export function sorted(): Sorted {
  const sort = route.get("sort") ?? "row";
  return { sort, descending: route.get("order") === "down" };
}

/** The parameters of the request; the same ones for a page and for the file. */
export function asked(model: ModelInfo): Params {
  const { sort, descending } = sorted();
  return {
    sort: sort === "row" ? null : sort,
    descending: descending ? true : null,
    layer: layerNames(model),
    text: route.get("text"),
    class: route.get("class"),
    measure: route.get("measure"),
    low: route.get("low"),
    high: route.get("high"),
  };
}

/** Sort by a column, or the other way round if it is sorted by already. */
export function sortBy({ key, falls }: Column): void {
  const now = sorted();
  const name = key === "component" ? "row" : key;
  const descending = now.sort === name ? !now.descending : falls;
  const order = descending ? "down" : null;
  route.go({ params: { sort: name === "row" ? null : name, order } });
}

export function shown(row: ComponentRow, { key, kind }: Column): string {
  const value = row[key];
  if (value === null || value === undefined) return "–";
  if (typeof value === "string") return value;
  if (kind === "share") return `${(100 * value).toFixed(1)} %`;
  if (kind === "count") return value.toLocaleString("en");
  return Math.abs(value) >= 100 ? value.toFixed(0) : value.toPrecision(3);
}
