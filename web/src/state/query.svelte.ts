/** What is searched for: words with + and -, or an image; kept in the route. */
import { get, send } from "../api/client";
import { asError } from "../api/resource.svelte";
import type { ApiError } from "../api/errors";
import type { ModelInfo, SearchResponse } from "../api/types";
import { route } from "./route.svelte";

/** Terms of a typed line: `stripes, - text` gives stripes without text. */
export function terms(line: string): { q: string[]; without: string[] } {
  const q: string[] = [];
  const without: string[] = [];
  // a sign counts at the start of a word only: "close-up" is one word
  for (const part of line.split(/,|\s(?=[+-]\s?\S)/)) {
    const text = part.trim();
    const word = text.replace(/^[+-]\s*/, "").trim();
    if (word) (text.startsWith("-") ? without : q).push(word);
  }
  return { q: [...new Set(q)], without: [...new Set(without)] };
}

/** The line that gives the route's terms. */
export function lineOf(q: readonly string[], without: readonly string[]): string {
  return [...q, ...without.map((word) => `- ${word}`)].join(", ").replace(/, - /g, " - ");
}

interface Beside {
  model: number;
  /** The number of the answer, as it stands in the route. */
  number: number | null;
  file: Blob;
  q: readonly string[];
  without: readonly string[];
}

class Query {
  /** The picture that was dropped, for as long as the page lives. */
  picture = $state<string | null>(null);
  /** What was sent with it, so that words can be added and taken away. */
  beside = $state.raw<Beside | null>(null);
  error = $state.raw<ApiError | null>(null);
  busy = $state(false);

  /** Search for words: on the map if it is open, else on the page of results. */
  words(line: string): void {
    const { q, without } = terms(line);
    this.error = null;
    const page = route.page === "map" ? "map" : "search";
    route.go({ page, params: { q, without, probe: null, like: null, unlike: null } });
  }

  /**
   * Search for an image, and words beside it: its bytes are sent once, the answer's number stands
   * in the route.
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
      const found = await send<SearchResponse>(
        "POST",
        `models/${model.number}/search/image`,
        file,
        { params: { k: 1, q, without } },
      );
      if (this.picture && this.beside?.file !== file) URL.revokeObjectURL(this.picture);
      if (this.beside?.file !== file) this.picture = URL.createObjectURL(file);
      this.beside = { model: model.number, number: found.probe, file, q, without };
      const page = route.page === "map" ? "map" : "search";
      const params = { probe: found.probe, q: [], without: [], like: null, unlike: null };
      route.go({ page, params });
    } catch (fault) {
      this.error = asError(fault);
    } finally {
      this.busy = false;
    }
  }
}

export const query = new Query();

/** The request of the route's query, or null when there is none. */
export function searchRequest(
  model: ModelInfo,
  k: number,
  cursor: string | null = null,
  layers: readonly string[] = [],
): ((signal: AbortSignal) => Promise<SearchResponse>) | null {
  const q = route.all("q");
  const without = route.all("without");
  const probe = route.get("probe");
  if (!q.length && !probe) return null;
  const params = { q, without, probe, k, cursor, layer: layers };
  return (signal) => get<SearchResponse>(`models/${model.number}/search`, { params, signal });
}
