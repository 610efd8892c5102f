/** The search query: words with + and -, or an image; stored in the route. */
import { get, send } from "../api/client";
import { asError } from "../api/resource.svelte";
import type { ApiError } from "../api/errors";
import type { ModelInfo, SearchResponse } from "../api/types";
import { route } from "./route.svelte";

/** Parse a search line: `stripes, - text` searches for stripes and avoids text. */
export function terms(line: string): { q: string[]; without: string[] } {
  const q: string[] = [];
  const without: string[] = [];
  // a minus counts at the start of a word only: "close-up" is a single word
  for (const part of line.split(/,|\s(?=[+-]\s?\S)/)) {
    const text = part.trim();
    const word = text.replace(/^[+-]\s*/, "").trim();
    if (word) (text.startsWith("-") ? without : q).push(word);
  }
  return { q: [...new Set(q)], without: [...new Set(without)] };
}

/** The search line for the terms of the route. */
export function lineOf(q: readonly string[], without: readonly string[]): string {
  return [...q, ...without.map((word) => `- ${word}`)].join(", ").replace(/, - /g, " - ");
}

interface ImageQuery {
  model: number;
  /** Id of the query, as in the route. */
  id: number | null;
  file: Blob;
  q: readonly string[];
  without: readonly string[];
}

class Query {
  /** URL of the uploaded image, while the page is open. */
  picture = $state<string | null>(null);
  /** The last image query, so that words can be added and removed. */
  imageQuery = $state.raw<ImageQuery | null>(null);
  error = $state.raw<ApiError | null>(null);
  busy = $state(false);

  /** Search for words: on the map if it is open, else on the search page. */
  words(line: string): void {
    const { q, without } = terms(line);
    this.error = null;
    const page = route.page === "map" ? "map" : "search";
    route.go({ page, params: { q, without, query_id: null, like: null, unlike: null } });
  }

  /**
   * Search with an image and optional words: the image is uploaded once, and the id of the query
   * is stored in the route.
   */
  async image(
    model: ModelInfo,
    file: Blob,
    q: readonly string[] = [],
    without: readonly string[] = [],
  ): Promise<void> {
    this.error = null;
    this.busy = true;
    try {
      const response = await send<SearchResponse>(
        "POST",
        `models/${model.number}/search/image`,
        file,
        { params: { k: 1, q, without } },
      );
      if (this.picture && this.imageQuery?.file !== file) URL.revokeObjectURL(this.picture);
      if (this.imageQuery?.file !== file) this.picture = URL.createObjectURL(file);
      this.imageQuery = { model: model.number, id: response.query_id, file, q, without };
      const page = route.page === "map" ? "map" : "search";
      const params = { query_id: response.query_id, q: [], without: [], like: null, unlike: null };
      route.go({ page, params });
    } catch (fault) {
      this.error = asError(fault);
    } finally {
      this.busy = false;
    }
  }
}

export const query = new Query();

/** The request for the query in the route; null without a query. */
export function searchRequest(
  model: ModelInfo,
  k: number,
  cursor: string | null = null,
  layers: readonly string[] = [],
): ((signal: AbortSignal) => Promise<SearchResponse>) | null {
  const q = route.all("q");
  const without = route.all("without");
  const queryId = route.get("query_id");
  if (!q.length && !queryId) return null;
  const params = { q, without, query_id: queryId, k, cursor, layer: layers };
  return (signal) => get<SearchResponse>(`models/${model.number}/search`, { params, signal });
}
