/**
 * Queries that a static export computes in the browser: sorting and filtering the component table,
 * and search in labels, as the server does (`lenses/describe/component_table.py`,
 * `lenses/saved_labels.py`).
 */
import { ApiError } from "./errors";
import type { ComponentPage, ListedComponent, SearchResponse } from "./types";

type Load = <T>(path: string) => Promise<T>;

/** Table rows in a recorded response. */
const STEP = 500;
const tables = new Map<string, Promise<{ page: ComponentPage; rows: ListedComponent[] }>>();

/** Compute the response for a path that was not recorded; undefined if that is impossible. */
export async function computeResponse(path: string, load: Load): Promise<unknown> {
  const [name = "", query = ""] = path.split("?", 2);
  const match = /^(models\/\d+)\/(components|search)$/.exec(name);
  if (!match) return undefined;
  const params = new URLSearchParams(query);
  const table = await tableOf(match[1]!, load);
  if (match[2] === "search") return params.has("query_id") ? undefined : search(table, params);
  // class relevance is not in the recorded table
  return params.has("class") ? undefined : pageOf(table, params);
}

function tableOf(base: string, load: Load): ReturnType<typeof readTable> {
  const table = tables.get(base) ?? readTable(base, load);
  tables.set(base, table);
  return table;
}

async function readTable(base: string, load: Load) {
  const page = await load<ComponentPage>(`${base}/components?cursor=0&k=${STEP}`);
  const rows = [...page.rows];
  while (rows.length < page.total) {
    const next = await load<ComponentPage>(`${base}/components?cursor=${rows.length}&k=${STEP}`);
    rows.push(...next.rows);
  }
  return { page, rows };
}

type Table = Awaited<ReturnType<typeof readTable>>;

function pageOf({ page, rows }: Table, params: URLSearchParams): ComponentPage {
  const sort = (params.get("sort") ?? "row") as keyof ListedComponent;
  const text = (params.get("text") ?? "").trim().toLowerCase();
  const measure = params.get("measure") as "clarity" | null;
  const [low, high] = [Number(params.get("low") ?? -Infinity), Number(params.get("high") ?? Infinity)];
  const layers = params.getAll("layer");
  const selected = rows.filter((row) => {
    const value = measure && row[measure];
    const inside = !measure || (value !== null && value >= low && value < high);
    const matching = `${row.component}\n${row.label ?? ""}`.toLowerCase().includes(text);
    return inside && matching && (!layers.length || layers.includes(row.layer));
  });
  const direction = params.get("descending") === "true" ? -1 : 1;
  selected.sort((a, b) => compare(a[sort], b[sort], direction) || a.row - b.row);
  const from = Number(params.get("cursor") ?? 0);
  const end = from + Number(params.get("k") ?? 100);
  return {
    ...page,
    total: selected.length,
    cursor: end < selected.length ? end : null,
    rows: selected.slice(from, end),
  };
}

type Value = ListedComponent[keyof ListedComponent];

/** Unknown values come last in both directions. */
function compare(a: Value, b: Value, direction: number): number {
  if (a === null || b === null) return Number(a === null) - Number(b === null);
  const [left, right] = typeof a === "string" ? [a.toLowerCase(), String(b).toLowerCase()] : [a, b];
  return left < right ? -direction : left > right ? direction : 0;
}

function search({ page, rows }: Table, params: URLSearchParams): SearchResponse {
  if (page.labels === null)
    throw new ApiError(
      404,
      "NotExported",
      "This read-only copy of the page has no labels to search in.",
      "Expected an export of a database with saved labels.",
      "Run 'semlens label DATABASE --keep NAME' and export again, or 'semlens serve DATABASE'.",
    );
  const included = params.getAll("q").map(words);
  const excluded = params.getAll("without").map(words);
  const layers = params.getAll("layer");
  const labelled = rows.filter(
    (row) => row.label !== null && (!layers.length || layers.includes(row.layer)),
  );
  const hits = labelled
    .filter(({ label }) => {
      const labelWords = words(label ?? "");
      const matches = (term: readonly string[]) => containsAll(labelWords, term);
      return included.some(matches) && !excluded.some(matches);
    })
    .sort((a, b) => (b.confidence ?? -1) - (a.confidence ?? -1) || a.row - b.row);
  const from = Number(params.get("cursor") ?? 0);
  const end = from + Number(params.get("k") ?? 20);
  return {
    query: params.getAll("q").join(" + "),
    searched: labelled.length,
    above_noise: null,
    scale: null,
    mode: "label",
    notice: `This is a read-only copy of the page: the search uses the labels '${page.labels.replace("saved:", "")}'.`,
    hits: hits.slice(from, end).map((row, i) => ({
      rank: from + i + 1,
      row: row.row,
      component: row.component,
      alignment: null,
      cosine: null,
      noise: null,
      above_noise: null,
      label: row.label,
      confidence: row.confidence,
    })),
    cursor: end < hits.length ? String(end) : null,
    query_id: null,
  };
}

function words(text: string): string[] {
  return text.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? [];
}

/** Whether each word of a text is the beginning of a word of the label. */
function containsAll(label: readonly string[], text: readonly string[]): boolean {
  return text.length > 0 && text.every((word) => label.some((labelWord) => labelWord.startsWith(word)));
}
