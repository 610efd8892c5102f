import { url } from "../../api/client";
import type { ModelInfo } from "../../api/types";

/** Images of a class side by side. */
export const CLASS_IMAGES = 3;

/** Address of the images of a class; it can be cached permanently, since it names the build. */
export function classUrl(model: ModelInfo, target: number): string {
  const v = model.fingerprint.slice(0, 12);
  return url(`models/${model.number}/classes/${target}/strip.webp`, { count: CLASS_IMAGES, v });
}
