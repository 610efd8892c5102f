/**
 * The hash contains the whole state of the page, so that every view has a link:
 * `#/m/MODEL/PAGE?q=stripe&layer=layer4&sel=layer4:17`. The page of lenses holds the name of one:
 * `#/m/MODEL/lens/NAME`, or `#/lens/NAME` for the first model.
 */
import { isStaticExport } from "../api/static-export";

export const PAGES = [
  "overview",
  "search",
  "map",
  "components",
  "classes",
  "explain",
  "audit",
  "compare",
  "lens",
] as const;
/** Pages that others link to, without an entry in the navigation. */
const LINKED = ["unexpected"] as const;
export type Page = (typeof PAGES)[number] | (typeof LINKED)[number];
export const TITLES: Record<Page, string> = {
  overview: "Overview",
  search: "Search",
  map: "Map",
  components: "Components",
  classes: "Classes",
  explain: "Explain",
  audit: "Audit",
  compare: "Compare",
  lens: "Lenses",
  unexpected: "Unexpected",
};
/** The lenses that a page made by hand shows. */
export const PAGE_OF_LENS: Partial<Record<string, Page>> = {
  search: "search",
  concept_map: "map",
  scores: "components",
  card: "components",
  class_relevance: "classes",
  attribution_graph: "classes",
  explain: "explain",
  audit: "audit",
  audit_all: "audit",
  compare: "compare",
  unexpected: "unexpected",
};
/** Pages in the navigation: an export has no server that could run the model or answer. */
export const SHOWN_PAGES = PAGES.filter((page) => !["explain", "lens"].includes(page) || !isStaticExport());

type Value = string | number | boolean | null | undefined | readonly (string | number)[];

export interface Change {
  page?: Page;
  /** The lens, on their page. */
  name?: string;
  model?: string;
  /**
   * Parameters to set; null removes one. The others are kept on the same page only: each page has
   * its own query, filters and card, and a link to another page says what it takes along.
   */
  params?: Record<string, Value>;
}

interface Parts {
  model: string;
  page: Page;
  name: string;
  params: URLSearchParams;
  /** The address, if there is nothing at it. */
  unknown?: string;
}

function parse(hash: string): Parts {
  const [path = "", query = ""] = hash.replace(/^#/, "").split("?", 2);
  const parts = path.split("/");
  if (parts[1] === "lens") parts.splice(1, 0, "m", "");
  const [start, marker, model, page, ...rest] = parts;
  const known = [...PAGES, ...LINKED].some((name) => name === page) && rest.length <= Number(page === "lens");
  const isEmpty = !start && !marker;
  const isModel = !start && marker === "m" && (known || !page);
  return {
    ...(isEmpty || isModel ? {} : { unknown: decode(`#${path}`) }),
    model: marker === "m" ? decode(model ?? "") : "",
    page: [...PAGES, ...LINKED].find((name) => name === page) ?? "overview",
    name: page === "lens" ? decode(rest[0] ?? "") : "",
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

function format({ model, page, name, params }: Parts): string {
  const query = params.toString();
  const path = name ? `${page}/${encodeURIComponent(name)}` : page;
  return `#/m/${encodeURIComponent(model)}/${path}${query ? `?${query}` : ""}`;
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

  /** The address, if there is no page at it. */
  get unknown(): string | null {
    return this.#parts.unknown ?? null;
  }

  get page(): Page {
    return this.#parts.page;
  }

  /** The name of the lens, on their page; else empty. */
  get name(): string {
    return this.#parts.name;
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
    const name = page === "lens" ? (change.name ?? (now.page === page ? now.name : "")) : "";
    const params = new URLSearchParams();
    for (const [key, value] of now.params) {
      if (page !== now.page || name !== now.name) break;
      // an address without a model is about the first one
      if (now.model && model !== now.model && key !== "q" && key !== "without") continue;
      params.append(key, value);
    }
    for (const [key, value] of Object.entries(change.params ?? {})) {
      params.delete(key);
      if (value === null || value === undefined || value === false || value === "") continue;
      for (const item of Array.isArray(value) ? value : [value]) params.append(key, String(item));
    }
    return format({ model, page, name, params });
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
