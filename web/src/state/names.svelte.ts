/** What components are called: the label of each, loaded once per model when a list first asks. */
import { get } from "../api/client";
import type { ModelInfo, Names } from "../api/types";
import { positionOf } from "./models.svelte";

export interface ComponentName {
  label: string | null;
  /** The word that may be right instead, if the two are about equally good. */
  rival: string | null;
  /** Probability that the label is right; null if unknown. */
  confidence?: number | null | undefined;
}

/** Confidence below which a label has a question mark, as in `lenses/labelling/confidence.py`. */
const UNSURE = 0.2;
const NONE: Names = { source: null, calibrated: false, words: [], label: [], rival: [], confidence: [] };

let loaded = $state.raw<Readonly<Record<number, Names>>>({});
const asked = new Set<number>();

async function load(model: ModelInfo): Promise<void> {
  // labels are an addition everywhere: without them, components keep their ids
  const names = await get<Names>(`models/${model.number}/names`).catch(() => NONE);
  loaded = { ...loaded, [model.number]: names };
}

/** The names of a model; null while they are loading. */
export function namesOf(model: ModelInfo): Names | null {
  if (!asked.has(model.number)) {
    asked.add(model.number);
    queueMicrotask(() => void load(model));
  }
  return loaded[model.number] ?? null;
}

/** Load the names again, after components were labelled. */
export function reloadNames(model: ModelInfo): void {
  asked.add(model.number);
  void load(model);
}

/** The name of a component; null if components have none, undefined while they are loading. */
export function nameOfComponent(model: ModelInfo, component: string): ComponentName | null | undefined {
  const names = namesOf(model);
  if (names === null) return undefined;
  const row = positionOf(model, component)?.row;
  if (names.source === null || row === undefined) return null;
  const word = (index: number | undefined) => names.words[index ?? -1] ?? null;
  return {
    label: word(names.label[row]),
    rival: word(names.rival[row]),
    confidence: names.confidence[row] ?? null,
  };
}

/** Question mark of a label that is likely wrong. */
export function markOf({ confidence }: Pick<ComponentName, "confidence">): string {
  return confidence != null && confidence < UNSURE ? "?" : "";
}

/** A name as one line of text. */
export function textOf(name: ComponentName): string | null {
  if (name.label === null) return null;
  if (name.rival === null) return `${name.label}${markOf(name)}`;
  return `unsure: ${name.label} / ${name.rival}${markOf(name)}`;
}
