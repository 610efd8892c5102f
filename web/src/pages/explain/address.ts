/** The explanation in the route: image, class, removed components, and how they are grouped. */
import { url } from "../../api/client";
import type { ModelInfo } from "../../api/types";
import { layerNames } from "../../state/models.svelte";
import { route, type Change } from "../../state/route.svelte";

/** The route change that offers images to predict without some components. */
export function predictionWithout(components: readonly string[]): Change {
  return { page: "explain", params: { removed: components } };
}

/** The route change that explains a sample of the database; removed components stay removed. */
export function explanation(
  sample: number,
  target: number | null = null,
  model: ModelInfo | null = null,
  without: readonly string[] = [],
): Change {
  return {
    page: "explain",
    ...(model && { model: model.name }),
    params: {
      sample,
      target,
      image: null,
      sel: null,
      of: null,
      ...(without.length && { removed: without }),
    },
  };
}

/** The route change that explains an uploaded image; removed components stay removed. */
export function uploaded(image: string): Change {
  return { page: "explain", params: { image, sample: null, target: null } };
}

/** The image in the route: the number of a sample or the id of an upload; null without one. */
export function imageInRoute(): string | null {
  return route.get("sample") ?? route.get("image");
}

/** Address of an image, scaled down to a longest side in pixels. */
export function pictureOf(model: ModelInfo, image: string | number, side = 1024): string {
  const v = model.fingerprint.slice(0, 12); // names the build, so that it can be cached
  return url(`models/${model.number}/explanations/${image}/image.webp`, { side, v });
}

/** Parameters of the requests for an explanation. */
export function settings(model: ModelInfo, k: number) {
  return { class: route.get("target"), layer: layerNames(model), k };
}

/** Components that are set to zero. */
export function removed(): string[] {
  return [...new Set(route.all("removed"))];
}

/** Set the components that are set to zero. */
export function remove(components: readonly string[]): void {
  route.go({ params: { removed: components } }, { replace: true });
}
