/**
 * The hash contains the whole state of the page, so that every view has a link:
 * `#/m/MODEL/PAGE?q=stripe&layer=layer4&sel=layer4:17`.
 */
export const PAGES = ["overview", "search", "map", "components", "classes", "audit", "compare"] as const;
export type Page = (typeof PAGES)[number];

type Value = string | number | boolean | null | undefined | readonly (string | number)[];

export interface Change {
  page?: Page;
  model?: string;
  /** Parameters to set; null removes one. On the same page, the others are kept. */
  params?: Record<string, Value>;
}

/** Parameters that are kept when the page changes; the others belong to one page. */
const CARRIED = ["q", "without", "query_id", "layer", "sel", "of", "pin", "pinof"];

interface Parts {
  model: string;
  page: Page;
  params: URLSearchParams;
}

function parse(hash: string): Parts {
  const [path = "", query = ""] = hash.replace(/^#/, "").split("?", 2);
  const [, marker, model, page] = path.split("/");
  return {
    model: marker === "m" ? decode(model ?? "") : "",
    page: PAGES.find((name) => name === page) ?? "overview",
    params: new URLSearchParams(query),
  };
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function format({ model, page, params }: Parts): string {
  const query = params.toString();
  return `#/m/${encodeURIComponent(model)}/${page}${query ? `?${query}` : ""}`;
}

class Route {
  #parts = $state.raw(parse(location.hash));

  constructor() {
    addEventListener("hashchange", () => (this.#parts = parse(location.hash)));
  }

  /** Name of the model, or an empty string before one is chosen. */
  get model(): string {
    return this.#parts.model;
  }

  get page(): Page {
    return this.#parts.page;
  }

  /** One parameter, or null. */
  get(key: string): string | null {
    return this.#parts.params.get(key);
  }

  /** All values of a parameter that may be repeated. */
  all(key: string): string[] {
    return this.#parts.params.getAll(key);
  }

  /** The hash after a change, for the `href` of a link. */
  href(change: Change): string {
    const now = this.#parts;
    const page = change.page ?? now.page;
    const model = change.model ?? now.model;
    const params = new URLSearchParams();
    for (const [key, value] of now.params) {
      if (page !== now.page && !CARRIED.includes(key)) continue;
      if (model !== now.model && key !== "q" && key !== "without") continue;
      params.append(key, value);
    }
    for (const [key, value] of Object.entries(change.params ?? {})) {
      params.delete(key);
      if (value === null || value === undefined || value === false || value === "") continue;
      for (const item of Array.isArray(value) ? value : [value]) params.append(key, String(item));
    }
    return format({ model, page, params });
  }

  /** Apply a change. `replace` adds no history entry (sliders, panning). */
  go(change: Change, { replace = false } = {}): void {
    const hash = this.href(change);
    if (hash === location.hash) return;
    history[replace ? "replaceState" : "pushState"](null, "", hash);
    this.#parts = parse(hash);
  }
}

export const route = new Route();
