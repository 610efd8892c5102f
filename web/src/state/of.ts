/**
 * Which model a part of the page speaks of: that of the route, or another one beside it (the
 * card of a component of the other model in a comparison).
 */
import { getContext, setContext } from "svelte";

import type { ModelInfo } from "../api/types";
import { models } from "./models.svelte";
import { route, type Change } from "./route.svelte";

const KEY = Symbol("model");

/** Let everything below speak of a model. */
export function speakOf(model: () => ModelInfo): void {
  setContext(KEY, model);
}

/** The model that is spoken of here. Call it while a component is made. */
export function spokenOf(): () => ModelInfo | null {
  return getContext<(() => ModelInfo) | undefined>(KEY) ?? (() => models.current);
}

/** The change that opens the card of a component. */
export function opening(name: string, model: ModelInfo | null): Change {
  return { params: { sel: name, of: named(model) } };
}

/** Whether the card of a component is open; without a model, of one of the page's. */
export function isOpen(name: string, model: ModelInfo | null = null): boolean {
  return route.get("sel") === name && route.get("of") === named(model);
}

/** The change that keeps a card beside the next one, or no longer. */
export function pinning(name: string, model: ModelInfo): Change {
  const held = isPinned(name, model);
  return { params: { pin: held ? null : name, pinof: held ? null : named(model) } };
}

/** Whether the card of a component is kept beside the next one. */
export function isPinned(name: string, model: ModelInfo): boolean {
  return route.get("pin") === name && route.get("pinof") === named(model);
}

/** A model as the route names it: not at all if it is the page's. */
function named(model: ModelInfo | null): string | null {
  return model && model.name !== route.model ? model.name : null;
}
