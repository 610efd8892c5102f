/**
 * A saved audit that is being edited: saved by itself a moment after each edit.
 *
 * What was not sent yet is kept by field, so that an answer never takes back what was typed
 * while it was under way. The server refuses an edit of an older revision; then nothing more is
 * sent until the newer one is loaded.
 */
import { send } from "../../api/client";
import type { ApiError } from "../../api/errors";
import { isStaticExport } from "../../api/static-export";
import { asError } from "../../api/resource.svelte";
import type { Review, SavedAuditResponse, AuditSettings, ListedConcept } from "../../api/types";
import type { Side } from "./verdict";

const PAUSE = 600;

type Said = Pick<Review, "status" | "note">;
type Lists = Record<Side, ListedConcept[]>;
type Content = Lists & { settings: AuditSettings };
type Dirty = Partial<Content> & { name?: string; reviews?: Record<string, Said | null> };

export type Status = "saved" | "waiting" | "saving" | "failed";

export class Draft {
  name = $state("");
  valid = $state.raw<ListedConcept[]>([]);
  spurious = $state.raw<ListedConcept[]>([]);
  settings = $state.raw<AuditSettings>() as AuditSettings;
  reviews = $state.raw<NonNullable<SavedAuditResponse["reviews"]>>({});
  status = $state<Status>("saved");
  error = $state.raw<ApiError | null>(null);
  /** What the server has, but for what is edited. */
  record = $state.raw<SavedAuditResponse>() as SavedAuditResponse;
  /** Counts what changes the finding, once it is saved. */
  computed = $state(0);
  /** Whether it was edited elsewhere since. */
  conflict = $derived(this.error?.kind === "EditError");
  readonly locked = isStaticExport();

  #dirty: Dirty = {};
  #undo = $state.raw<{ what: string; back: () => void }[]>([]);
  #timer = 0;
  #sending: Promise<void> | null = null;

  constructor(
    readonly path: string,
    record: SavedAuditResponse,
  ) {
    this.take(record);
  }

  /** Show a record as it is; what was not saved is gone. */
  take(record: SavedAuditResponse): void {
    clearTimeout(this.#timer);
    this.#dirty = {};
    this.#undo = [];
    this.error = null;
    this.status = "saved";
    this.#accept(record);
    this.computed += 1;
  }

  get undoable(): number {
    return this.#undo.length;
  }

  /** Change lists or settings; `undo` takes it back. */
  change(what: Partial<Content>): void {
    if (this.locked) return;
    const { valid, spurious, settings } = this;
    this.#remember("lists", () => this.#apply({ valid, spurious, settings }));
    this.#apply(what);
  }

  undo(): void {
    const last = this.#undo.at(-1);
    this.#undo = this.#undo.slice(0, -1);
    last?.back();
  }

  rename(name: string): void {
    if (this.locked || !name.trim() || name === this.name) return;
    this.name = name;
    this.#dirty.name = name;
    this.#wait();
  }

  /** Say something of a component, or take it back. */
  review(component: string, review: Said | null): void {
    if (this.locked) return;
    const before = this.reviews[component] ?? null;
    // the letters of a note are one edit
    const what = before && review && before.status === review.status ? `note ${component}` : "review";
    if (what === "review" || this.#undo.at(-1)?.what !== what)
      this.#remember(what, () => this.#say(component, before));
    this.#say(component, review);
  }

  #remember(what: string, back: () => void): void {
    this.#undo = [...this.#undo.slice(-99), { what, back }];
  }

  #say(component: string, said: Said | null): void {
    const review = said && { status: said.status, note: said.note };
    const { [component]: before, ...others } = this.reviews;
    this.reviews = review
      ? { ...others, [component]: { when: "", ...before, ...review } }
      : others;
    this.#dirty.reviews = { ...this.#dirty.reviews, [component]: review };
    this.#wait();
  }

  /** Add concepts to a side; those of the other side move over. Returns how many are new here. */
  add(side: Side, terms: readonly ListedConcept[]): number {
    const known = new Set(this[side].map(keyOf));
    const fresh = new Map<string, ListedConcept>();
    for (const term of terms)
      if (keyOf(term) && !known.has(keyOf(term))) fresh.set(keyOf(term), term);
    if (!fresh.size) return 0;
    const other = side === "valid" ? "spurious" : "valid";
    const left = this[other].filter((term) => !fresh.has(keyOf(term)));
    // an image concept that moves stays one
    const moved = this[other].filter((term) => fresh.has(keyOf(term)));
    for (const term of moved) fresh.set(keyOf(term), term);
    const lists = { [side]: [...this[side], ...fresh.values()] } as Partial<Lists>;
    this.change(moved.length ? { ...lists, [other]: left } : lists);
    return fresh.size;
  }

  remove(side: Side, term: ListedConcept): void {
    this.change({ [side]: this[side].filter((concept) => concept !== term) });
  }

  /** Save now; resolves once the server has everything, or has refused. */
  async flush(): Promise<void> {
    clearTimeout(this.#timer);
    await this.#sending;
    if (Object.keys(this.#dirty).length && !this.conflict) {
      this.#sending = this.#send();
      await this.#sending;
    }
  }

  /** Take the audit over to the build that the database has now. */
  async renew(): Promise<void> {
    await this.flush();
    this.#sending = this.#send({ renew: true });
    await this.#sending;
  }

  #apply(what: Partial<Content>): void {
    Object.assign(this, what);
    Object.assign(this.#dirty, what);
    this.#wait();
  }

  #wait(): void {
    if (this.conflict) return;
    this.error = null;
    this.status = "waiting";
    clearTimeout(this.#timer);
    this.#timer = window.setTimeout(() => void this.flush(), PAUSE);
  }

  async #send(more: { renew?: boolean } = {}): Promise<void> {
    const sent = this.#dirty;
    this.#dirty = {};
    this.status = "saving";
    try {
      const revision = this.record.revision;
      const found = await send<SavedAuditResponse>("PUT", this.path, { revision, ...sent, ...more });
      this.#accept(found);
      if (sent.valid || sent.spurious || sent.settings || more.renew) this.computed += 1;
      if (this.status === "saving") this.status = Object.keys(this.#dirty).length ? "waiting" : "saved";
    } catch (fault) {
      // what was edited meanwhile is newer than what could not be sent
      const reviews = { ...sent.reviews, ...this.#dirty.reviews };
      this.#dirty = { ...sent, ...this.#dirty };
      if (Object.keys(reviews).length) this.#dirty.reviews = reviews;
      this.error = asError(fault);
      this.status = "failed";
    } finally {
      this.#sending = null;
    }
  }

  /** Take over from an answer what was not edited since it was asked for. */
  #accept(found: SavedAuditResponse): void {
    this.record = found;
    const dirty = this.#dirty;
    if (dirty.name === undefined) this.name = found.name;
    if (!dirty.valid) this.valid = found.valid;
    if (!dirty.spurious) this.spurious = found.spurious;
    if (!dirty.settings) this.settings = found.settings;
    if (!dirty.reviews) this.reviews = found.reviews ?? {};
  }
}

/** What two spellings of one concept have in common. */
export function keyOf(term: ListedConcept): string {
  return term.text.toLowerCase().split(/\s+/).filter(Boolean).join(" ");
}

/** Texts of typed or pasted lines as concepts. */
export function termsOf(text: string): ListedConcept[] {
  return text
    .split(/[\n\r\t]+/)
    .map((line) => line.replace(/^\s*[-*•]\s+/, "").trim())
    .filter(Boolean)
    .map((line) => ({ text: line, path: [], images: [] }));
}
