/** What draws the points: one interface, by WebGL where there is some, else by hand. */
import type { Colour } from "./colour";
import type { View } from "./view";

/** How each point looks. Points later in `order` lie above earlier ones. */
export interface Style {
  /** Red, green, blue, alpha of each point. */
  colour: Uint8Array;
  /** Diameter of each point; 64 is the usual one. */
  size: Uint8Array;
  order: Uint32Array;
}

/** The colour of one point, for the frame of its picture. */
export function colourOf({ colour }: Style, point: number): string {
  const [red = 0, green = 0, blue = 0, alpha = 0] = colour.subarray(4 * point, 4 * point + 4);
  return `rgb(${red} ${green} ${blue} / ${alpha / 255})`;
}

export const USUAL = 64;

export interface PointLayer {
  readonly kind: "webgl" | "2d";
  readonly canvas: HTMLCanvasElement;
  setPoints(x: Float32Array, y: Float32Array): void;
  /** `paper`: the colour of the ground. */
  setStyle(style: Style, paper: Colour): void;
  /** Draw what a view shows. `ratio`: pixels of the device per CSS pixel. */
  draw(view: View, diameter: number, ratio: number): void;
  destroy(): void;
}

/** Diameter of a usual point in CSS pixels: fewer points, zoom and room make it larger. */
export function diameterOf(count: number, view: View): number {
  const base = Math.min(Math.max(34 * count ** -0.25, 1.5), 10);
  const room = Math.min(Math.max(Math.sqrt(view.width * view.height) / 850, 0.75), 1.5);
  return Math.min(base * room * Math.max(view.zoom, 1) ** 0.3, 16);
}
