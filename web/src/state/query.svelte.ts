/** The search query: words with + and -, or an image; stored in the route. */
import { get, send } from "../api/client";
import { asError } from "../api/resource.svelte";
import { ApiError } from "../api/errors";
import type { ModelInfo, SearchResponse } from "../api/types";
import { checkImage } from "./image-file";
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

/** Limits of the server. */
const LONGEST = 200;
const MOST = 16;

/** What is wrong with the words of a query, or null. */
export function problemOf(words: readonly string[]): ApiError | null {
  const count = (value: number) => value.toLocaleString("en");
  const longest = Math.max(0, ...words.map((word) => word.length));
  if (longest > LONGEST)
    return new ApiError(
      0,
      "QueryError",
      `A term of the search has ${count(longest)} characters.`,
      `Expected at most ${LONGEST}.`,
      "Search for a few words.",
    );
  if (words.length > MOST)
    return new ApiError(
      0,
      "QueryError",
      `The search has ${count(words.length)} terms.`,
      `Expected at most ${MOST}; commas separate terms.`,
      "Leave some out.",
    );
  return null;
}

class Query {
  /** The last image query, so that words can be added and removed. */
  imageQuery = $state.raw<ImageQuery | null>(null);
  /** Why the last search could not be sent. */
  error = $state.raw<ApiError | null>(null);
  busy = $state(false);
  /** The address that typing made, which the next key may replace. */
  #typed: string | null = null;

  /**
   * Search for words: on the map if it is open, else on the search page.
   *
   * @param live whether it follows the typing: then it leaves one entry in the history.
   */
  words(line: string, { live = false } = {}): void {
    const { q, without } = terms(line);
    this.error = problemOf([...q, ...without]);
    if (this.error) return;
    const replace = live && this.#typed === location.hash;
    const page = route.page === "map" ? "map" : "search";
    const params = { q, without, query_id: null, like: null, unlike: null };
    route.go({ page, params }, { replace });
    this.#typed = live ? location.hash : null;
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
      await checkImage(file);
      const response = await send<SearchResponse>(
        "POST",
        `models/${model.number}/search/image`,
        file,
        { params: { k: 1, q, without } },
      );
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
