/** The search query in the route: words, components and an image, each included or excluded. */
import { get, send, type JobStatus } from "../../api/client";
import type { SearchRequest, ModelInfo, SearchResponse } from "../../api/types";
import { layerNames } from "../../state/models.svelte";
import { query as queryState } from "../../state/query.svelte";
import { route } from "../../state/route.svelte";

export const PAGE = 20;

export type TermKind = "word" | "component" | "image";

export interface Term {
  kind: TermKind;
  text: string;
  negative: boolean;
}

export interface SearchQuery {
  terms: readonly Term[];
  /** Id of an earlier query with an image or components. */
  queryId: string | null;
  layers: readonly string[];
  /** False: ranked at once, without what noise reaches. */
  compare?: boolean;
}

type Job = (signal: AbortSignal, progress: (status: JobStatus) => void) => Promise<SearchResponse>;

/** The query in the route. */
export function searchQuery(model: ModelInfo): SearchQuery {
  const queryId = route.get("query_id");
  const layers = layerNames(model);
  const term = (kind: TermKind, negative: boolean) => (text: string) => ({ kind, text, negative });
  if (queryId) {
    // an image and its words have a single id on the server
    const imageQuery = imageQueryOf(model, queryId);
    const words = [
      ...(imageQuery?.q ?? []).map(term("word", false)),
      ...(imageQuery?.without ?? []).map(term("word", true)),
    ];
    const image: Term = { kind: "image", text: "image", negative: false };
    return { terms: unique([image, ...words]), queryId, layers };
  }
  const terms = [
    ...route.all("q").map(term("word", false)),
    ...route.all("like").map(term("component", false)),
    ...route.all("without").map(term("word", true)),
    ...route.all("unlike").map(term("component", true)),
  ];
  return { terms: unique(terms), queryId, layers };
}

/** Remove repeated terms. */
function unique(terms: readonly Term[]): Term[] {
  return [...new Map(terms.map((t) => [`${t.kind} ${t.negative} ${t.text}`, t])).values()];
}

/** The image query of this page with an id, if there is one. */
export function imageQueryOf(model: ModelInfo, queryId: string) {
  const last = queryState.imageQuery;
  return last?.model === model.number && String(last.id) === queryId ? last : null;
}

/** Search with other terms. */
export function change(model: ModelInfo, query: SearchQuery, terms: readonly Term[]): void {
  const of = (kind: TermKind, negative: boolean) =>
    terms.filter((t) => t.kind === kind && t.negative === negative).map((t) => t.text);
  const q = of("word", false);
  const without = of("word", true);
  const imageQuery = query.queryId ? imageQueryOf(model, query.queryId) : null;
  if (imageQuery && terms.some((t) => t.kind === "image")) {
    void queryState.image(model, imageQuery.file, q, without);
    return;
  }
  const like = of("component", false);
  route.go({ params: { q, without, like, unlike: of("component", true), query_id: null } });
}

/** The request of the first page; null without included terms. */
export function firstPage(model: ModelInfo, { terms, queryId, layers, compare }: SearchQuery): Job | null {
  if (!terms.some((term) => !term.negative)) return null;
  const path = `models/${model.number}/search`;
  const of = (kind: TermKind, negative: boolean) =>
    terms.filter((t) => t.kind === kind && t.negative === negative).map((t) => t.text);
  const q = of("word", false);
  const without = of("word", true);
  if (queryId || !terms.some((term) => term.kind === "component")) {
    const params = queryId ? { query_id: queryId } : { q, without };
    return (signal, progress) =>
      get(path, { params: { ...params, k: PAGE, layer: layers, compare }, signal, progress });
  }
  return async (signal, progress) => {
    const body: SearchRequest = {
      like: of("component", false),
      unlike: of("component", true),
      q,
      without,
      layers: layers.length ? [...layers] : null,
      k: PAGE,
    };
    return send("POST", `${path}/components`, body, { signal, progress });
  };
}

/** The request of the next page. */
export function nextPage(model: ModelInfo, query: SearchQuery, previous: SearchResponse): Job {
  const words = (negative: boolean) =>
    query.terms.filter((t) => t.negative === negative).map((t) => t.text);
  const params = previous.query_id
    ? { query_id: previous.query_id }
    : { q: words(false), without: words(true) };
  return (signal) =>
    get(`models/${model.number}/search`, {
      params: { ...params, k: PAGE, cursor: previous.cursor, layer: query.layers },
      signal,
    });
}
