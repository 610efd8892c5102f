/** Kinds of artefacts that can be inserted, with their default settings. */
import type { ArtefactRequest } from "../../api/types";

export type ArtefactKind = ArtefactRequest["kind"];
export interface ArtefactSettings extends ArtefactRequest {
  words: string;
  colour: string;
  strength: number;
}

interface Kind {
  title: string;
  /** What the strength sets; null if the artefact has no settings. */
  strength: "opacity" | "size" | null;
  defaults: ArtefactSettings;
}

export const KINDS: Record<ArtefactKind, Kind> = {
  mark: {
    title: "Mark of the spurious components",
    strength: null,
    defaults: { kind: "mark", words: "", colour: "#000000", strength: 1 },
  },
  text: {
    title: "Text",
    strength: "size",
    defaults: { kind: "text", words: "© stock", colour: "#ffffff", strength: 0.12 },
  },
  hue: {
    title: "Tint",
    strength: "opacity",
    defaults: { kind: "hue", words: "", colour: "#e78097", strength: 0.3 },
  },
  patch: {
    title: "Patch",
    strength: "size",
    defaults: { kind: "patch", words: "", colour: "#dc1e28", strength: 0.22 },
  },
  stripes: {
    title: "Stripes",
    strength: "opacity",
    defaults: { kind: "stripes", words: "", colour: "#ffffff", strength: 0.45 },
  },
};
export const MAX_ARTEFACTS = 4;
/** Components that a mark is located with. */
const LOCATING = 5;

export function describe(artefact: ArtefactSettings): string {
  if (artefact.kind === "mark") return "the mark of the spurious components";
  const title = KINDS[artefact.kind].title.toLowerCase();
  return artefact.kind === "text" ? `the text “${artefact.words}”` : `the ${title}`;
}

/** The first artefact to try: the mark behind the verdict, if there are spurious components. */
export const firstOf = (spurious: readonly string[]): ArtefactSettings =>
  KINDS[spurious.length ? "mark" : "text"].defaults;

/** The request for an artefact; a mark is cut out of the examples of the first components. */
export function requestOf(artefact: ArtefactSettings, spurious: readonly string[]): ArtefactRequest {
  if (artefact.kind === "mark") return { kind: "mark", components: spurious.slice(0, LOCATING) };
  return { ...artefact, words: artefact.kind === "text" ? artefact.words : null };
}
