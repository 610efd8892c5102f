/** Rows of the table, fetched in pages as they scroll into view. */
import { tick } from "svelte";

import { get, type Params } from "../../api/client";
import { asError, resource, type Resource } from "../../api/resource.svelte";
import type { ApiError } from "../../api/errors";
import type { ComponentPage, ListedComponent, ModelInfo } from "../../api/types";

const PAGE = 100;

interface TableResponse {
  /** Query of the response, so that pages of different queries are never mixed. */
  params: Params;
  page: ComponentPage;
}

export interface Rows {
  readonly first: Resource<TableResponse>;
  readonly page: ComponentPage | null;
  readonly error: ApiError | null;
  at(index: number): ListedComponent | undefined;
  /** Fetch missing rows of a range. */
  need(start: number, stop: number): void;
  /** Wait until a row is loaded. */
  ready(index: number): Promise<void>;
}

export function tableRows(model: () => ModelInfo, tableParams: () => Params): Rows {
  const path = $derived(`models/${model().number}/components`);
  const first = resource<TableResponse>(
    () => {
      const params = tableParams();
      const from = path;
      return async (signal, progress) => {
        const page = await get<ComponentPage>(from, {
          params: { ...params, k: PAGE },
          signal,
          progress,
        });
        return { params, page };
      };
    },
    { keep: true },
  );
  let pages = $state.raw<ReadonlyMap<number, readonly ListedComponent[]>>(new Map());
  let error = $state.raw<ApiError | null>(null);
  let loading = new Map<number, Promise<void>>();
  let stop = new AbortController();

  $effect(() => {
    const answer = first.value;
    pages = new Map(answer ? [[0, answer.page.rows]] : []);
    error = null;
    return () => {
      stop.abort();
      stop = new AbortController();
      loading = new Map();
    };
  });

  async function fetchPage(number: number, answer: TableResponse): Promise<void> {
    const { signal } = stop;
    const params = { ...answer.params, k: PAGE, cursor: number * PAGE };
    try {
      const page = await get<ComponentPage>(path, { params, signal });
      if (!signal.aborted) pages = new Map([...pages, [number, page.rows]]);
    } catch (fault) {
      if (!signal.aborted) error = asError(fault);
    }
  }

  function need(start: number, stop: number): void {
    const answer = first.value;
    if (!answer) return;
    const last = Math.min(stop, answer.page.total) - 1;
    for (let n = Math.floor(start / PAGE); n * PAGE <= last; n += 1)
      if (!pages.has(n) && !loading.has(n)) loading.set(n, fetchPage(n, answer));
  }

  return {
    first,
    get page() {
      return first.value?.page ?? null;
    },
    get error() {
      return first.error ?? error;
    },
    at: (index) => pages.get(Math.floor(index / PAGE))?.[index % PAGE],
    need,
    async ready(index) {
      need(index, index + 1);
      await loading.get(Math.floor(index / PAGE));
      await tick();
    },
  };
}
