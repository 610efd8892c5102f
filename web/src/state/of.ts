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
  return { params: { sel: name, of: model && model.name !== route.model ? model.name : null } };
}
