/** What is typed in the search box, if it names a component or a layer: `layer2:42`, `42`, `layer2`. */
import type { LayerInfo, ModelInfo } from "../api/types";
import { nameOf } from "./models.svelte";

export type Jump =
  | { kind: "component"; name: string }
  | { kind: "layer"; layer: string }
  | { kind: "problem"; text: string; choices: readonly string[] };

const SHOWN = 8;
const problem = (text: string, choices: readonly string[] = []): Jump => ({ kind: "problem", text, choices });

/** The layers of a model and how many components each has, in words. */
export function layersText(model: ModelInfo): string {
  const some = model.layers
    .slice(0, SHOWN)
    .map((layer, i) => `${layer.name} (${layer.components}${i ? "" : " components"})`);
  const more = model.layers.length - some.length;
  return some.join(", ") + (more > 0 ? ` and ${more} more` : "");
}

/** The component or layer that a line names, or why there is none; null if it is a query. */
export function jumpOf(model: ModelInfo, line: string): Jump | null {
  const text = line.trim();
  if (!text || /\s/.test(text)) return null;
  const layer = exactLayer(model, text);
  if (layer) return { kind: "layer", layer: layer.name };
  const [, layerText, index] = /^(.+):(-?\d+)$/.exec(text) ?? [];
  if (layerText !== undefined && index !== undefined) return inLayer(model, layerText, index);
  if (/^-?\d+$/.test(text)) return anywhere(model, text);
  if (looksLikeLayer(model, text))
    return problem(`This model has no layer “${text}”. It has ${layersText(model)}.`);
  return null;
}

function exactLayer(model: ModelInfo, text: string): LayerInfo | undefined {
  return model.layers.find((layer) => layer.name.toLowerCase() === text.toLowerCase());
}

function inLayer(model: ModelInfo, text: string, index: string): Jump {
  const exact = exactLayer(model, text);
  const similar = model.layers.filter((layer) => layer.name.toLowerCase().includes(text.toLowerCase()));
  const layers = exact ? [exact] : similar;
  const found = layers.map((layer) => componentIn(model, layer, index)).filter((name) => name !== null);
  if (found.length === 1) return { kind: "component", name: found[0]! };
  if (found.length) return problem(`Several layers have “${text}” in their name.`, found.slice(0, SHOWN));
  if (!layers.length) return problem(`This model has no layer “${text}”. It has ${layersText(model)}.`);
  return problem(layers.slice(0, SHOWN).map(range).join(" "));
}

function anywhere(model: ModelInfo, index: string): Jump {
  const found = model.layers.map((layer) => componentIn(model, layer, index)).filter((name) => name !== null);
  if (found.length === 1) return { kind: "component", name: found[0]! };
  if (found.length) return problem(`${found.length} layers have a component ${index}.`, found.slice(0, SHOWN));
  return problem(`No layer has a component ${index}. ${model.layers.slice(0, SHOWN).map(range).join(" ")}`);
}

function range(layer: LayerInfo): string {
  const negative = layer.signs === "both" ? `, and -0 to -${layer.channels - 1}` : "";
  return `${layer.name} has ${layer.components} components: 0 to ${layer.channels - 1}${negative}.`;
}

function componentIn(model: ModelInfo, layer: LayerInfo, index: string): string | null {
  const channel = Number(index.replace("-", ""));
  if (channel >= layer.channels || (index.startsWith("-") && layer.signs !== "both")) return null;
  return nameOf(model, layer.first + channel + (index.startsWith("-") ? layer.channels : 0));
}

/** Whether a word differs from the name of a layer in its numbers only, such as `layer9`. */
function looksLikeLayer(model: ModelInfo, text: string): boolean {
  const stem = (name: string) => name.toLowerCase().replace(/\d+/g, "#");
  return /\d/.test(text) && model.layers.some((layer) => stem(layer.name) === stem(text));
}
