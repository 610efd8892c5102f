/**
 * The model that a part of the page shows: that of the route, or another one (the card of a
 * component of the second model in a comparison).
 */
import { getContext, setContext } from "svelte";

import type { ModelInfo } from "../api/types";
import { models } from "./models.svelte";
import { route, type Change } from "./route.svelte";

const KEY = Symbol("model");

/** Set the model for all children of a component. */
export function setModelContext(model: () => ModelInfo): void {
  setContext(KEY, model);
}

/** The model at this place. Call it during initialisation of a component. */
export function getModelContext(): () => ModelInfo | null {
  return getContext<(() => ModelInfo) | undefined>(KEY) ?? (() => models.current);
}

/** The route change that opens the card of a component. */
export function openCard(name: string, model: ModelInfo | null): Change {
  return { params: { sel: name, of: routeName(model) } };
}

/** Whether the card of a component is open; without a model, one of the page's model. */
export function isCardOpen(name: string, model: ModelInfo | null = null): boolean {
  return route.get("sel") === name && route.get("of") === routeName(model);
}

/** The route change that pins or unpins a card. */
export function togglePin(name: string, model: ModelInfo): Change {
  const pinned = isCardPinned(name, model);
  return { params: { pin: pinned ? null : name, pinof: pinned ? null : routeName(model) } };
}

/** Whether the card of a component is pinned, so that it stays beside the next one. */
export function isCardPinned(name: string, model: ModelInfo): boolean {
  return route.get("pin") === name && route.get("pinof") === routeName(model);
}

/** The name of a model in the route: null for the model of the page. */
function routeName(model: ModelInfo | null): string | null {
  return model && model.name !== route.model ? model.name : null;
}
