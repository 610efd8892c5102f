/** Heatmaps of an explanation, and how they are painted over the image. */
import { parseTensors } from "../../api/tensors";

export interface Heatmaps {
  width: number;
  height: number;
  /** The map of the class comes first, then those of the components. */
  map(index: number): Int8Array;
}

export function parseHeatmaps(buffer: ArrayBuffer): Heatmaps {
  const tensors = parseTensors(buffer);
  const values = tensors.get("heatmaps", "I8");
  const [, height = 0, width = 0] = (tensors.metadata["shape"] ?? "").split(",").map(Number);
  const size = width * height;
  return { width, height, map: (index) => values.subarray(index * size, (index + 1) * size) };
}

type Colour = readonly number[];

/** Paint a heatmap as `draw/heatmap_mask.py` does: the stronger, the more opaque. */
export function paint(
  canvas: HTMLCanvasElement,
  { width, height }: Heatmaps,
  map: Int8Array,
  positive: Colour,
  negative: Colour,
): void {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  if (!context) return;
  const image = context.createImageData(width, height);
  map.forEach((value, pixel) => {
    image.data.set(value > 0 ? positive : negative, 4 * pixel);
    image.data[4 * pixel + 3] = 255 * 0.85 * (Math.abs(value) / 127) ** 0.75;
  });
  context.putImageData(image, 0, 0);
}

/** The channels of a computed colour such as `rgb(12, 34, 56)`. */
export function channels(colour: string): number[] {
  return (colour.match(/[\d.]+/g) ?? []).slice(0, 3).map(Number);
}
