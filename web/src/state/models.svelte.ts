/** The served models and the current one, and names of components. */
import { get, url, type Params } from "../api/client";
import { asError } from "../api/resource.svelte";
import type { ApiError } from "../api/errors";
import type { LayerInfo, ModelInfo } from "../api/types";
import { route } from "./route.svelte";

/** Position of a component among all components. */
export interface ComponentPosition {
  layer: LayerInfo;
  /** In its layer; negative components follow all positive ones. */
  index: number;
  row: number;
}

class Models {
  list = $state.raw<readonly ModelInfo[]>([]);
  error = $state.raw<ApiError | null>(null);

  /** Load the models. */
  async load(): Promise<void> {
    this.error = null;
    try {
      this.list = await get<ModelInfo[]>("models");
    } catch (fault) {
      this.error = asError(fault);
    }
  }

  get current(): ModelInfo | null {
    return this.list.find((model) => model.name === route.model) ?? null;
  }
}

export const models = new Models();

/** Position of a component from its name, `layer3:17` or `layer3:-17`; null if unknown. */
export function positionOf(model: ModelInfo, name: string): ComponentPosition | null {
  const cut = name.lastIndexOf(":");
  const layer = model.layers.find((layer) => layer.name === name.slice(0, cut));
  const number = name.slice(cut + 1);
  if (!layer || !/^-?\d+$/.test(number)) return null;
  const index = number.startsWith("-") ? layer.channels - Number(number) : Number(number);
  if (index >= layer.components) return null;
  return { layer, index, row: layer.first + index };
}

/** Name of a component from its row in the database. */
export function nameOf(model: ModelInfo, row: number): string {
  const layer = model.layers.find((layer) => row >= layer.first && row < layer.first + layer.components);
  if (!layer) return `#${row}`;
  const index = row - layer.first;
  return `${layer.name}:${index >= layer.channels ? `-${index - layer.channels}` : index}`;
}

/** API path of a component, without `api/v1/`. */
export function componentPath(model: ModelInfo, name: string): string {
  return `models/${model.number}/components/${encodeURIComponent(name)}`;
}

/** Address of an image of a component; it can be cached permanently, since it names the build. */
export function pictureUrl(
  model: ModelInfo,
  name: string,
  file: string,
  params: Params = {},
): string {
  const v = model.fingerprint.slice(0, 12);
  return url(`${componentPath(model, name)}/${file}`, { ...params, v });
}

/** Layers that are selected in the route; empty means all. */
export function layerNames(model: ModelInfo): string[] {
  const selected = route.all("layer");
  return model.layers.map((layer) => layer.name).filter((name) => selected.includes(name));
}
