/** What the route asks for: words, components and an image, each to look for or to stay away from. */
import { get, send, type JobStatus } from "../../api/client";
import type { SearchRequest, ModelInfo, SearchResponse } from "../../api/types";
import { layerNames } from "../../state/models.svelte";
import { query } from "../../state/query.svelte";
import { route } from "../../state/route.svelte";

export const PAGE = 20;

export type Kind = "word" | "component" | "image";

export interface Term {
  kind: Kind;
  text: string;
  negative: boolean;
}

export interface Question {
  terms: readonly Term[];
  /** The number of an image that was sent. */
  probe: string | null;
  layers: readonly string[];
}

type Job = (signal: AbortSignal, progress: (told: JobStatus) => void) => Promise<SearchResponse>;

/** The question of the route. */
export function asked(model: ModelInfo): Question {
  const probe = route.get("probe");
  const layers = layerNames(model);
  const term = (kind: Kind, negative: boolean) => (text: string) => ({ kind, text, negative });
  if (probe) {
    // an image and the words beside it are one number for the server
    const beside = besideImage(model, probe);
    const words = [
      ...(beside?.q ?? []).map(term("word", false)),
      ...(beside?.without ?? []).map(term("word", true)),
    ];
    const image: Term = { kind: "image", text: "image", negative: false };
    return { terms: once([image, ...words]), probe, layers };
  }
  const terms = [
    ...route.all("q").map(term("word", false)),
    ...route.all("like").map(term("component", false)),
    ...route.all("without").map(term("word", true)),
    ...route.all("unlike").map(term("component", true)),
  ];
  return { terms: once(terms), probe, layers };
}

/** Each term once: a word that is said twice, or turned into one that is there, says no more. */
function once(terms: readonly Term[]): Term[] {
  return [...new Map(terms.map((t) => [`${t.kind} ${t.negative} ${t.text}`, t])).values()];
}

/** What was sent with the image, if it was this page that sent it. */
export function besideImage(model: ModelInfo, probe: string) {
  const known = query.beside;
  return known?.model === model.number && String(known.number) === probe ? known : null;
}

/** Search with other terms. */
export function change(model: ModelInfo, question: Question, terms: readonly Term[]): void {
  const of = (kind: Kind, negative: boolean) =>
    terms.filter((t) => t.kind === kind && t.negative === negative).map((t) => t.text);
  const q = of("word", false);
  const without = of("word", true);
  const beside = question.probe ? besideImage(model, question.probe) : null;
  if (beside && terms.some((t) => t.kind === "image")) {
    void query.image(model, beside.file, q, without);
    return;
  }
  const like = of("component", false);
  route.go({ params: { q, without, like, unlike: of("component", true), probe: null } });
}

/** The first page of answers; null as long as there is nothing to look for. */
export function firstPage(model: ModelInfo, { terms, probe, layers }: Question): Job | null {
  if (!terms.some((term) => !term.negative)) return null;
  const path = `models/${model.number}/search`;
  const of = (kind: Kind, negative: boolean) =>
    terms.filter((t) => t.kind === kind && t.negative === negative).map((t) => t.text);
  const q = of("word", false);
  const without = of("word", true);
  if (probe || !terms.some((term) => term.kind === "component")) {
    const params = probe ? { probe } : { q, without };
    return (signal, progress) =>
      get(path, { params: { ...params, k: PAGE, layer: layers }, signal, progress });
  }
  return async (signal, progress) => {
    const body: SearchRequest = {
      like: of("component", false),
      unlike: of("component", true),
      q,
      without,
      layers: layers.length ? [...layers] : null,
      k: PAGE,
    };
    return send("POST", `${path}/components`, body, { signal, progress });
  };
}

/** The page after an answer's. */
export function nextPage(model: ModelInfo, question: Question, before: SearchResponse): Job {
  const words = (negative: boolean) =>
    question.terms.filter((t) => t.negative === negative).map((t) => t.text);
  const params = before.probe
    ? { probe: before.probe }
    : { q: words(false), without: words(true) };
  return (signal) =>
    get(`models/${model.number}/search`, {
      params: { ...params, k: PAGE, cursor: before.cursor, layer: question.layers },
      signal,
    });
}
