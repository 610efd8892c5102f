/** What draws the points: one interface, by WebGL where there is some, else by hand. */
import type { View } from "./view";

/** How each point looks. Points later in `order` lie above earlier ones. */
export interface Style {
  /** Red, green, blue, alpha of each point. */
  colour: Uint8Array;
  /** Diameter of each point; 64 is the usual one. */
  size: Uint8Array;
  order: Uint32Array;
}

export const USUAL = 64;

export interface PointLayer {
  readonly kind: "webgl" | "2d";
  readonly canvas: HTMLCanvasElement;
  setPoints(x: Float32Array, y: Float32Array): void;
  setStyle(style: Style): void;
  /** Draw what a view shows. `ratio`: pixels of the device per CSS pixel. */
  draw(view: View, diameter: number, ratio: number): void;
  destroy(): void;
}

/** Diameter of a usual point in CSS pixels: fewer points and higher zoom make it larger. */
export function diameterOf(count: number, zoom: number): number {
  const base = Math.min(Math.max(34 * count ** -0.25, 1.5), 10);
  return Math.min(base * Math.max(zoom, 1) ** 0.3, 14);
}
