/** Query parameters of the component table, and its columns. */
import type { Params } from "../../api/client";
import type { ComponentPage, ListedComponent, ModelInfo } from "../../api/types";
import { layerNames } from "../../state/models.svelte";
import { route } from "../../state/route.svelte";

export interface Column {
  key: keyof ListedComponent;
  title: string;
  /** Tooltip of the header. */
  help: string;
  kind: "text" | "count" | "share" | "number" | "measure";
  /** Whether the first click on the header sorts in descending order. */
  descendingFirst: boolean;
  /** In rem. */
  width: number;
}

const COLUMNS: readonly Column[] = [
  { key: "component", title: "Component", help: "Layer and index", kind: "text", descendingFirst: false, width: 8.2 },
  { key: "label", title: "Component", help: "By label, forwards and backwards, then as in the model", kind: "text", descendingFirst: false, width: 16 },
  { key: "confidence", title: "Sure", help: "Probability that the label is right", kind: "share", descendingFirst: true, width: 4.6 },
  { key: "examples", title: "Examples", help: "Number of concept examples", kind: "count", descendingFirst: true, width: 5.8 },
  { key: "firing_rate", title: "Fires on", help: "Share of images on which the readout is above zero", kind: "share", descendingFirst: true, width: 5.2 },
  { key: "maximum", title: "Maximum", help: "Largest readout over all images", kind: "number", descendingFirst: true, width: 6 },
  { key: "clarity", title: "Clarity", help: "Mean cosine similarity of all pairs of examples: higher is clearer", kind: "measure", descendingFirst: true, width: 6.2 },
  { key: "redundancy", title: "Redundancy", help: "Largest cosine similarity with another component of the layer: lower is more unique", kind: "measure", descendingFirst: true, width: 7 },
  { key: "polysemanticity", title: "Polysemanticity", help: "1 - cosine similarity of the two halves of the examples: low means a single sense", kind: "measure", descendingFirst: true, width: 9 },
];

const RELEVANCE: readonly Column[] = [
  { key: "relevance_mean", title: "Relevance", help: "Mean share of the layer's relevance for the class", kind: "share", descendingFirst: true, width: 6.2 },
  { key: "relevance_max", title: "Maximum", help: "Largest share on any image", kind: "share", descendingFirst: true, width: 5 },
];

/** The columns that a page of the table has values for. */
export function columnsOf(model: ModelInfo, page: ComponentPage): readonly Column[] {
  const [name, label, sure, ...others] = COLUMNS as readonly [Column, Column, Column, ...Column[]];
  const shares = page.relevance === null ? [] : RELEVANCE;
  const longest = Math.max(...model.layers.map((layer) => `${layer.name}:-${layer.channels}`.length));
  // names are never truncated; some models have long layer names
  const width = Math.max(name.width, 0.475 * longest + 1.5);
  // the label is the headline, with the id beneath; without labels there is the id only
  const headline = page.labels === null ? [{ ...name, width }] : [{ ...label, width: Math.max(width, label.width) }, sure];
  return [...headline, ...shares, ...others];
}

export interface SortOrder {
  sort: string;
  descending: boolean;
}

export function sortOrder(): SortOrder {
  const sort = route.get("sort") ?? "row";
  return { sort, descending: route.get("order") === "down" };
}

/** Query parameters of the table and of the CSV file. */
export function tableParams(model: ModelInfo): Params {
  const { sort, descending } = sortOrder();
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

/** Sort by a column; reverse the order if it is the current one. */
export function sortBy({ key, descendingFirst }: Column): void {
  const now = sortOrder();
  if (key === "label" && now.sort === key && now.descending) {
    route.go({ params: { sort: null, order: null } });
    return;
  }
  const name = key === "component" ? "row" : key;
  const descending = now.sort === name ? !now.descending : descendingFirst;
  const order = descending ? "down" : null;
  route.go({ params: { sort: name === "row" ? null : name, order } });
}

export function formatCell(row: ListedComponent, { key, kind }: Column): string {
  const value = row[key];
  if (value === null || value === undefined) return "–";
  if (typeof value === "string") return value;
  if (kind === "share") return `${(100 * value).toFixed(1)} %`;
  if (kind === "count") return value.toLocaleString("en");
  return Math.abs(value) >= 100 ? value.toFixed(0) : value.toPrecision(3);
}
