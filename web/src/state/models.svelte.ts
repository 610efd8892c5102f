/** The models that are served, and which one the page is about. */
import { get, url, type Params } from "../api/client";
import { asError } from "../api/resource.svelte";
import type { ApiError } from "../api/errors";
import type { LayerInfo, ModelInfo } from "../api/types";
import { route } from "./route.svelte";

/** A component's place among all. */
export interface Place {
  layer: LayerInfo;
  /** In its layer, where negative directions stand behind all channels. */
  index: number;
  row: number;
}

class Models {
  list = $state.raw<readonly ModelInfo[]>([]);
  error = $state.raw<ApiError | null>(null);

  /** Read them once, and choose the first if the link names none. */
  async load(): Promise<void> {
    this.error = null;
    try {
      this.list = await get<ModelInfo[]>("models");
    } catch (fault) {
      this.error = asError(fault);
      return;
    }
    const first = this.list[0];
    if (first && !route.model) route.go({ model: first.name }, { replace: true });
  }

  get current(): ModelInfo | null {
    return this.list.find((model) => model.name === route.model) ?? null;
  }
}

export const models = new Models();

/** Where a component stands, from its name such as `layer3:17` or `layer3:-17`; null: nowhere. */
export function placeOf(model: ModelInfo, name: string): Place | null {
  const cut = name.lastIndexOf(":");
  const layer = model.layers.find((one) => one.name === name.slice(0, cut));
  const number = name.slice(cut + 1);
  if (!layer || !/^-?\d+$/.test(number)) return null;
  const index = number.startsWith("-") ? layer.channels - Number(number) : Number(number);
  if (index >= layer.components) return null;
  return { layer, index, row: layer.first + index };
}

/** The name of a component by its row in the database. */
export function nameOf(model: ModelInfo, row: number): string {
  const layer = model.layers.find((one) => row >= one.first && row < one.first + one.components);
  if (!layer) return `#${row}`;
  const index = row - layer.first;
  return `${layer.name}:${index >= layer.channels ? `-${index - layer.channels}` : index}`;
}

/** The path of what the API says about a component, without `api/v1/`. */
export function componentPath(model: ModelInfo, name: string): string {
  return `models/${model.number}/components/${encodeURIComponent(name)}`;
}

/** Where a picture of a component is; it may be kept for long, since its path names the build. */
export function pictureUrl(
  model: ModelInfo,
  name: string,
  file: string,
  params: Params = {},
): string {
  const v = model.fingerprint.slice(0, 12);
  return url(`${componentPath(model, name)}/${file}`, { ...params, v });
}

/** The layers of the model that the route names; empty: all. */
export function layerNames(model: ModelInfo): string[] {
  const named = route.all("layer");
  return model.layers.map((one) => one.name).filter((one) => named.includes(one));
}
