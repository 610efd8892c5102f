/**
 * What a static export computes by itself: the order of the table, and search by kept labels.
 * The rules are those of the server (`analysis/describe/component_table.py`, `analysis/label_search.py`).
 */
import { ApiError } from "./errors";
import type { ComponentPage, ComponentRow, SearchResponse } from "./types";

type Load = <T>(path: string) => Promise<T>;

/** Rows of the table in one recorded answer. */
const STEP = 500;
const tables = new Map<string, Promise<{ page: ComponentPage; rows: ComponentRow[] }>>();

/** The answer to a path that was not recorded as it is; undefined if it cannot be made here. */
export async function answerLocally(path: string, load: Load): Promise<unknown> {
  const [name = "", query = ""] = path.split("?", 2);
  const found = /^(models\/\d+)\/(components|search)$/.exec(name);
  if (!found) return undefined;
  const asked = new URLSearchParams(query);
  const table = await tableOf(found[1]!, load);
  if (found[2] === "search") return asked.has("probe") ? undefined : search(table, asked);
  // relevance for a class is not in the recorded table
  return asked.has("class") ? undefined : pageOf(table, asked);
}

function tableOf(base: string, load: Load): ReturnType<typeof readTable> {
  const known = tables.get(base) ?? readTable(base, load);
  tables.set(base, known);
  return known;
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

function pageOf({ page, rows }: Table, asked: URLSearchParams): ComponentPage {
  const sort = (asked.get("sort") ?? "row") as keyof ComponentRow;
  const text = (asked.get("text") ?? "").trim().toLowerCase();
  const measure = asked.get("measure") as "clarity" | null;
  const [low, high] = [Number(asked.get("low") ?? -Infinity), Number(asked.get("high") ?? Infinity)];
  const layers = asked.getAll("layer");
  const chosen = rows.filter((row) => {
    const value = measure && row[measure];
    const inside = !measure || (value !== null && value >= low && value < high);
    const named = `${row.component}\n${row.label ?? ""}`.toLowerCase().includes(text);
    return inside && named && (!layers.length || layers.includes(row.layer));
  });
  const turn = asked.get("descending") === "true" ? -1 : 1;
  chosen.sort((a, b) => compare(a[sort], b[sort], turn) || a.row - b.row);
  const from = Number(asked.get("cursor") ?? 0);
  const end = from + Number(asked.get("k") ?? 100);
  return {
    ...page,
    total: chosen.length,
    cursor: end < chosen.length ? end : null,
    rows: chosen.slice(from, end),
  };
}

type Value = ComponentRow[keyof ComponentRow];

/** What is not known comes last, whatever the direction. */
function compare(a: Value, b: Value, turn: number): number {
  if (a === null || b === null) return Number(a === null) - Number(b === null);
  const [one, other] = typeof a === "string" ? [a.toLowerCase(), String(b).toLowerCase()] : [a, b];
  return one < other ? -turn : one > other ? turn : 0;
}

function search({ page, rows }: Table, asked: URLSearchParams): SearchResponse {
  if (page.labels === null)
    throw new ApiError(
      404,
      "NotExported",
      "This is a saved copy of the page: words are looked up in labels, and it has none.",
      "Expected a database with kept labels.",
      "Run 'semlens label DATABASE --save NAME' and export again, or 'semlens serve DATABASE'.",
    );
  const wanted = asked.getAll("q").map(words);
  const unwanted = asked.getAll("without").map(words);
  const layers = asked.getAll("layer");
  const labelled = rows.filter(
    (row) => row.label !== null && (!layers.length || layers.includes(row.layer)),
  );
  const hits = labelled
    .filter(({ label }) => {
      const known = words(label ?? "");
      return wanted.some((one) => holds(known, one)) && !unwanted.some((one) => holds(known, one));
    })
    .sort((a, b) => (b.label_alignment ?? 0) - (a.label_alignment ?? 0) || a.row - b.row);
  const from = Number(asked.get("cursor") ?? 0);
  const end = from + Number(asked.get("k") ?? 20);
  return {
    query: asked.getAll("q").join(" + "),
    searched: labelled.length,
    mode: "label",
    notice: `This is a saved copy of the page: words are looked up in the labels '${page.labels}'.`,
    hits: hits.slice(from, end).map((row, i) => ({
      rank: from + i + 1,
      row: row.row,
      component: row.component,
      alignment: row.label_alignment ?? 0,
      cosine: null,
      percentile: null,
      label: row.label,
    })),
    cursor: end < hits.length ? String(end) : null,
    probe: null,
  };
}

function words(text: string): string[] {
  return text.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? [];
}

/** Whether each word of a text begins a word of a label. */
function holds(label: readonly string[], text: readonly string[]): boolean {
  return text.length > 0 && text.every((word) => label.some((one) => one.startsWith(word)));
}
