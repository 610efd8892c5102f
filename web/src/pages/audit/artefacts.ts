/** The artefacts that a page can insert, with the look that each begins with. */
import type { ArtefactRequest } from "../../api/types";

export type Kind = ArtefactRequest["kind"];
export interface Chosen extends ArtefactRequest {
  words: string;
  colour: string;
  strength: number;
}

export const KINDS: Record<Kind, { title: string; strength: "opacity" | "size"; first: Chosen }> = {
  text: {
    title: "Text",
    strength: "size",
    first: { kind: "text", words: "© stock", colour: "#ffffff", strength: 0.12 },
  },
  hue: {
    title: "Tint",
    strength: "opacity",
    first: { kind: "hue", words: "", colour: "#e78097", strength: 0.3 },
  },
  patch: {
    title: "Patch",
    strength: "size",
    first: { kind: "patch", words: "", colour: "#dc1e28", strength: 0.22 },
  },
  stripes: {
    title: "Stripes",
    strength: "opacity",
    first: { kind: "stripes", words: "", colour: "#ffffff", strength: 0.45 },
  },
};
export const MOST = 4;

export function said(artefact: Chosen): string {
  const title = KINDS[artefact.kind].title.toLowerCase();
  return artefact.kind === "text" ? `the text “${artefact.words}”` : `the ${title}`;
}

/** As the server takes it. */
export const given = (artefact: Chosen): ArtefactRequest => ({
  ...one,
  words: one.kind === "text" ? one.words : null,
});
