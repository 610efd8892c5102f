/** The table's rows, fetched in pages as they come into view. */
import { tick } from "svelte";

import { get, type Params } from "../../api/client";
import { asError, resource, type Resource } from "../../api/resource.svelte";
import type { ApiError } from "../../api/errors";
import type { ComponentPage, ComponentRow, ModelInfo } from "../../api/types";

const PAGE = 100;

interface Answer {
  /** What was asked, so that pages of two questions are never mixed. */
  params: Params;
  page: ComponentPage;
}

export interface Rows {
  readonly first: Resource<Answer>;
  readonly page: ComponentPage | null;
  readonly error: ApiError | null;
  at(place: number): ComponentRow | undefined;
  /** Fetch what is missing between two places. */
  need(start: number, stop: number): void;
  /** Wait until a row is there. */
  ready(place: number): Promise<void>;
}

export function tableRows(model: () => ModelInfo, asked: () => Params): Rows {
  const path = $derived(`models/${model().number}/components`);
  const first = resource<Answer>(
    () => {
      const params = asked();
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
  let pages = $state.raw<ReadonlyMap<number, readonly ComponentRow[]>>(new Map());
  let error = $state.raw<ApiError | null>(null);
  let asking = new Map<number, Promise<void>>();
  let stop = new AbortController();

  $effect(() => {
    const answer = first.value;
    pages = new Map(answer ? [[0, answer.page.rows]] : []);
    error = null;
    return () => {
      stop.abort();
      stop = new AbortController();
      asking = new Map();
    };
  });

  async function fetchPage(number: number, answer: Answer): Promise<void> {
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
      if (!pages.has(n) && !asking.has(n)) asking.set(n, fetchPage(n, answer));
  }

  return {
    first,
    get page() {
      return first.value?.page ?? null;
    },
    get error() {
      return first.error ?? error;
    },
    at: (place) => pages.get(Math.floor(place / PAGE))?.[place % PAGE],
    need,
    async ready(place) {
      need(place, place + 1);
      await asking.get(Math.floor(place / PAGE));
      await tick();
    },
  };
}
