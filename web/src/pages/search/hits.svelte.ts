/** Search results, loaded page by page. */
import { asError, resource, type Resource } from "../../api/resource.svelte";
import type { ApiError } from "../../api/errors";
import type { ModelInfo, SearchResponse, SearchHit } from "../../api/types";
import { firstPage, nextPage, type SearchQuery } from "./search-query";

export interface Hits {
  readonly first: Resource<SearchResponse>;
  /** The first page by alignment alone, until what noise reaches is measured. */
  readonly early: SearchResponse | null;
  /** All results so far, each component once. */
  readonly list: readonly SearchHit[];
  readonly more: boolean;
  readonly loading: boolean;
  readonly error: ApiError | null;
  next(): Promise<void>;
}

/** Request the first page, and again whenever the query changes. */
export function hits(model: () => ModelInfo, query: () => SearchQuery): Hits {
  // the last results stay while the next are searched, so that typing does not flicker
  const first = resource<SearchResponse>(() => firstPage(model(), query()), { keep: true });
  const measuring = $derived(first.value === null && first.progress !== null);
  const early = resource<SearchResponse>(() =>
    measuring ? firstPage(model(), { ...query(), compare: false }) : null,
  );
  let later = $state.raw<readonly SearchResponse[]>([]);
  let loading = $state(false);
  let error = $state.raw<ApiError | null>(null);
  let stop = new AbortController();

  $effect(() => {
    void first.value;
    later = [];
    loading = false;
    error = null;
    return () => {
      stop.abort();
      stop = new AbortController();
    };
  });

  const last = $derived(later.at(-1) ?? first.value);
  const list = $derived.by(() => {
    const all = [first.value ?? early.value, ...later].flatMap((response) => response?.hits ?? []);
    // the list is keyed by row, so rows must be unique
    return [...new Map(all.map((hit) => [hit.row, hit])).values()];
  });

  async function next(): Promise<void> {
    const before = last;
    if (!before?.cursor || loading) return;
    const { signal } = stop;
    loading = true;
    error = null;
    try {
      const response = await nextPage(model(), query(), before)(signal, () => undefined);
      if (!signal.aborted) later = [...later, response];
    } catch (fault) {
      if (!signal.aborted) error = asError(fault);
    } finally {
      if (!signal.aborted) loading = false;
    }
  }

  return {
    first,
    get early() {
      return early.value;
    },
    get list() {
      return list;
    },
    get more() {
      return last?.cursor != null;
    },
    get loading() {
      return loading;
    },
    get error() {
      return error;
    },
    next,
  };
}
