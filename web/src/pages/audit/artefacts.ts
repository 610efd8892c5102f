/** Kinds of artefacts that can be inserted, with their default settings. */
import type { ArtefactRequest } from "../../api/types";

export type ArtefactKind = ArtefactRequest["kind"];
export interface ArtefactSettings extends ArtefactRequest {
  words: string;
  colour: string;
  strength: number;
}

export const KINDS: Record<ArtefactKind, { title: string; strength: "opacity" | "size"; defaults: ArtefactSettings }> = {
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

export function describe(artefact: ArtefactSettings): string {
  const title = KINDS[artefact.kind].title.toLowerCase();
  return artefact.kind === "text" ? `the text “${artefact.words}”` : `the ${title}`;
}

/** The request for an artefact. */
export const requestOf = (artefact: ArtefactSettings): ArtefactRequest => ({
  ...artefact,
  words: artefact.kind === "text" ? artefact.words : null,
});
