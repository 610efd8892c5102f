/** Interface of layers that draw points, with WebGL or on a 2D canvas. */
import type { Colour } from "./colour";
import type { View } from "./view";

/** Style of the points. Points later in `order` are drawn on top. */
export interface Style {
  /** Red, green, blue, alpha of each point. */
  colour: Uint8Array;
  /** Diameter of each point, relative to `NORMAL_SIZE`. */
  size: Uint8Array;
  order: Uint32Array;
}

/** The colour of a point, for the frame of its crop. */
export function colourOf({ colour }: Style, point: number): string {
  const [red = 0, green = 0, blue = 0, alpha = 0] = colour.subarray(4 * point, 4 * point + 4);
  return `rgb(${red} ${green} ${blue} / ${alpha / 255})`;
}

/** Size of a normal point. */
export const NORMAL_SIZE = 64;

export interface PointLayer {
  readonly kind: "webgl" | "2d";
  readonly canvas: HTMLCanvasElement;
  setPoints(x: Float32Array, y: Float32Array): void;
  /** `paper` is the background colour. */
  setStyle(style: Style, paper: Colour): void;
  /** Draw a view. `ratio` is the number of device pixels per CSS pixel. */
  draw(view: View, diameter: number, ratio: number): void;
  destroy(): void;
}

/** Diameter of a normal point in CSS pixels; larger for fewer points, higher zoom and more space. */
export function diameterOf(count: number, view: View): number {
  const base = Math.min(Math.max(34 * count ** -0.25, 1.5), 10);
  const room = Math.min(Math.max(Math.sqrt(view.width * view.height) / 850, 0.75), 1.5);
  return Math.min(base * room * Math.max(view.zoom, 1) ** 0.3, 16);
}
