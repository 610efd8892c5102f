/**
 * The hash holds the whole state of the page, so that a link is a view:
 * `#/m/MODEL/PAGE?q=stripe&layer=layer4&sel=layer4:17`.
 */
export const PAGES = ["overview", "search", "map", "components", "classes", "audit", "compare"] as const;
export type Page = (typeof PAGES)[number];

type Value = string | number | boolean | null | undefined | readonly (string | number)[];

export interface Change {
  page?: Page;
  model?: string;
  /** Parameters to set; null removes one. The others stay as they are on the same page. */
  params?: Record<string, Value>;
}

/** What goes along to another page; the rest belongs to the page that was left. */
const CARRIED = ["q", "without", "probe", "layer", "sel", "of", "pin", "pinof"];

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
    page: PAGES.find((known) => known === page) ?? "overview",
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

  /** All values of a parameter that may be given again. */
  all(key: string): string[] {
    return this.#parts.params.getAll(key);
  }

  /** The hash of a changed state, for the `href` of a link. */
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
      for (const one of Array.isArray(value) ? value : [value]) params.append(key, String(one));
    }
    return format({ model, page, params });
  }

  /** Change the state. `replace` leaves no entry in the history (sliders, panning). */
  go(change: Change, { replace = false } = {}): void {
    const hash = this.href(change);
    if (hash === location.hash) return;
    history[replace ? "replaceState" : "pushState"](null, "", hash);
    this.#parts = parse(hash);
  }
}

export const route = new Route();
