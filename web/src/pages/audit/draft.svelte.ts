/**
 * A saved audit that is being edited; it is saved automatically shortly after each edit.
 *
 * Unsent edits are kept by field, so that a response never reverts what was typed while the
 * request was running. The server refuses edits of an older revision; then nothing is sent until
 * the newer one is loaded.
 */
import { get, send } from "../../api/client";
import type { ApiError } from "../../api/errors";
import { isStaticExport } from "../../api/static-export";
import { asError } from "../../api/resource.svelte";
import type { Review, SavedAuditResponse, AuditSettings, ListedConcept } from "../../api/types";
import { forgetVerdicts } from "../../state/verdicts.svelte";
import type { Side } from "./verdict";

const SAVE_DELAY = 600;

type ReviewEdit = Pick<Review, "status" | "note">;
type Lists = Record<Side, ListedConcept[]>;
type Content = Lists & { settings: AuditSettings };
type Dirty = Partial<Content> & { name?: string; reviews?: Record<string, ReviewEdit | null> };

export type Status = "saved" | "waiting" | "saving" | "failed";

export class Draft {
  name = $state("");
  valid = $state.raw<ListedConcept[]>([]);
  spurious = $state.raw<ListedConcept[]>([]);
  settings = $state.raw<AuditSettings>() as AuditSettings;
  reviews = $state.raw<NonNullable<SavedAuditResponse["reviews"]>>({});
  status = $state<Status>("saved");
  error = $state.raw<ApiError | null>(null);
  /** The audit as the server last returned it. */
  record = $state.raw<SavedAuditResponse>() as SavedAuditResponse;
  /** Incremented when a saved edit changes the result. */
  computed = $state(0);
  /** Whether the audit was edited elsewhere. */
  conflict = $derived(this.error?.kind === "EditError");
  readonly locked = isStaticExport();

  #dirty: Dirty = {};
  #undo = $state.raw<{ kind: string; revert: () => void }[]>([]);
  #timer = 0;
  #sending: Promise<void> | null = null;

  constructor(
    readonly path: string,
    record: SavedAuditResponse,
  ) {
    this.load(record);
  }

  /** Load a record; unsaved edits are discarded. */
  load(record: SavedAuditResponse): void {
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

  /** Change lists or settings; can be undone. */
  change(edit: Partial<Content>): void {
    if (this.locked) return;
    const { valid, spurious, settings } = this;
    this.#remember("lists", () => this.#apply({ valid, spurious, settings }));
    this.#apply(edit);
  }

  undo(): void {
    const last = this.#undo.at(-1);
    this.#undo = this.#undo.slice(0, -1);
    last?.revert();
  }

  rename(name: string): void {
    if (this.locked || !name.trim() || name === this.name) return;
    this.name = name;
    this.#dirty.name = name;
    this.#wait();
  }

  /** Set or remove the review of a component. */
  review(component: string, review: ReviewEdit | null): void {
    if (this.locked) return;
    const before = this.reviews[component] ?? null;
    // typing a note is a single edit
    const kind = before && review && before.status === review.status ? `note ${component}` : "review";
    if (kind === "review" || this.#undo.at(-1)?.kind !== kind)
      this.#remember(kind, () => this.#setReview(component, before));
    this.#setReview(component, review);
  }

  #remember(kind: string, revert: () => void): void {
    this.#undo = [...this.#undo.slice(-99), { kind, revert }];
  }

  #setReview(component: string, edit: ReviewEdit | null): void {
    const review = edit && { status: edit.status, note: edit.note };
    const { [component]: before, ...others } = this.reviews;
    this.reviews = review
      ? { ...others, [component]: { when: "", ...before, ...review } }
      : others;
    this.#dirty.reviews = { ...this.#dirty.reviews, [component]: review };
    this.#wait();
  }

  /** Add concepts to a list, moving them from the other one. Returns how many were added. */
  add(side: Side, terms: readonly ListedConcept[]): number {
    const listed = new Set(this[side].map(keyOf));
    const added = new Map<string, ListedConcept>();
    for (const term of terms)
      if (keyOf(term) && !listed.has(keyOf(term))) added.set(keyOf(term), term);
    if (!added.size) return 0;
    const other = side === "valid" ? "spurious" : "valid";
    const left = this[other].filter((term) => !added.has(keyOf(term)));
    // moved image concepts keep their images
    const moved = this[other].filter((term) => added.has(keyOf(term)));
    for (const term of moved) added.set(keyOf(term), term);
    const lists = { [side]: [...this[side], ...added.values()] } as Partial<Lists>;
    this.change(moved.length ? { ...lists, [other]: left } : lists);
    return added.size;
  }

  remove(side: Side, term: ListedConcept): void {
    this.change({ [side]: this[side].filter((concept) => concept !== term) });
  }

  /** Save now; resolves when the server has accepted or refused all edits. */
  async flush(): Promise<void> {
    clearTimeout(this.#timer);
    await this.#sending;
    if (Object.keys(this.#dirty).length && !this.conflict) {
      this.#sending = this.#send();
      await this.#sending;
    }
  }

  /** Read the audit again after a mark was saved in it; unsaved edits are kept. */
  async refresh(): Promise<void> {
    await this.#sending;
    this.#accept(await get<SavedAuditResponse>(this.path));
  }

  /** Update the audit to the current build of the database. */
  async updateBuild(): Promise<void> {
    await this.flush();
    this.#sending = this.#send({ update_build: true });
    await this.#sending;
  }

  #apply(edit: Partial<Content>): void {
    Object.assign(this, edit);
    Object.assign(this.#dirty, edit);
    this.#wait();
  }

  #wait(): void {
    if (this.conflict) return;
    this.error = null;
    this.status = "waiting";
    clearTimeout(this.#timer);
    this.#timer = window.setTimeout(() => void this.flush(), SAVE_DELAY);
  }

  async #send(options: { update_build?: boolean } = {}): Promise<void> {
    const sent = this.#dirty;
    this.#dirty = {};
    this.status = "saving";
    try {
      const revision = this.record.revision;
      const response = await send<SavedAuditResponse>("PUT", this.path, { revision, ...sent, ...options });
      this.#accept(response);
      if (sent.valid || sent.spurious || sent.settings || options.update_build) this.computed += 1;
      if (sent.reviews || sent.valid || sent.spurious || sent.settings || options.update_build) forgetVerdicts();
      if (this.status === "saving") this.status = Object.keys(this.#dirty).length ? "waiting" : "saved";
    } catch (fault) {
      // edits made meanwhile are newer than the unsent ones
      const reviews = { ...sent.reviews, ...this.#dirty.reviews };
      this.#dirty = { ...sent, ...this.#dirty };
      if (Object.keys(reviews).length) this.#dirty.reviews = reviews;
      this.error = asError(fault);
      this.status = "failed";
    } finally {
      this.#sending = null;
    }
  }

  /** Update the fields that were not edited since the request was sent. */
  #accept(record: SavedAuditResponse): void {
    this.record = record;
    const dirty = this.#dirty;
    if (dirty.name === undefined) this.name = record.name;
    if (!dirty.valid) this.valid = record.valid;
    if (!dirty.spurious) this.spurious = record.spurious;
    if (!dirty.settings) this.settings = record.settings;
    if (!dirty.reviews) this.reviews = record.reviews ?? {};
  }
}

/** Key of a concept, the same for different spellings. */
export function keyOf(term: ListedConcept): string {
  return term.text.toLowerCase().split(/\s+/).filter(Boolean).join(" ");
}

/** Concepts from typed or pasted lines. */
export function conceptsOf(text: string): ListedConcept[] {
  return text
    .split(/[\n\r\t]+/)
    .map((line) => line.replace(/^\s*[-*•]\s+/, "").trim())
    .filter(Boolean)
    .map((line) => ({ text: line, path: [], images: [] }));
}
