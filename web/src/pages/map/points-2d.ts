/**
 * Points without WebGL: disks are blended into a pixel array, which is then put on the canvas. For
 * 100 000 points this is much faster than canvas paths. Also used for image downloads.
 */
import type { Colour } from "./colour";
import { NORMAL_SIZE, type PointLayer, type Style } from "./points";
import type { View } from "./view";

/** Larger canvases are drawn at a lower resolution, since a frame would take too long. */
const MAX_PIXELS = 4_000_000;
const STEPS = 2;

interface Disk {
  width: number;
  /** Coverage of each pixel, 0 to 255. */
  cover: Uint8Array;
}

const disks = new Map<number, Disk>();

/** A disk by its diameter in half pixels. */
function diskOf(halves: number): Disk {
  const cached = disks.get(halves);
  if (cached) return cached;
  const across = halves / STEPS;
  const width = Math.ceil(across) + (Math.ceil(across) % 2 === 0 ? 1 : 0);
  const cover = new Uint8Array(width * width);
  const middle = (width - 1) / 2;
  for (let i = 0; i < cover.length; i++) {
    const away = Math.hypot((i % width) - middle, Math.floor(i / width) - middle);
    cover[i] = 255 * Math.min(Math.max(across / 2 + 0.5 - away, 0), 1);
  }
  const disk = { width, cover };
  disks.set(halves, disk);
  return disk;
}

/** Blend points into opaque pixels. */
export function paintPoints(
  image: ImageData,
  x: Float32Array,
  y: Float32Array,
  { colour, size, order }: Style,
  view: View,
  diameter: number,
  ratio: number,
): void {
  const { data: pixels, width, height } = image;
  const scale = view.scale * ratio;
  const left = view.screenX(0) * ratio;
  const top = view.screenY(0) * ratio;
  // there are few sizes: look up their disks once, not for each point
  const unit = (STEPS * diameter * ratio) / NORMAL_SIZE;
  const shapes = Array.from({ length: 256 }, (_, s) => diskOf(Math.max(Math.round(unit * s), STEPS)));
  for (let n = 0; n < order.length; n++) {
    const i = order[n]!;
    const { width: across, cover } = shapes[size[i]!]!;
    const half = (across - 1) / 2;
    const h = Math.round(left + x[i]! * scale) - half;
    const v = Math.round(top - y[i]! * scale) - half;
    if (h < 0 || v < 0 || h + across > width || v + across > height) continue;
    const red = colour[4 * i]!;
    const green = colour[4 * i + 1]!;
    const blue = colour[4 * i + 2]!;
    const alpha = colour[4 * i + 3]! + 1;
    let k = 0;
    for (let row = 0; row < across; row++) {
      let at = 4 * ((v + row) * width + h);
      for (let column = 0; column < across; column++, k++, at += 4) {
        const share = cover[k]! * alpha; // of 65536
        if (share === 0) continue;
        pixels[at]! += ((red - pixels[at]!) * share) >> 16;
        pixels[at + 1]! += ((green - pixels[at + 1]!) * share) >> 16;
        pixels[at + 2]! += ((blue - pixels[at + 2]!) * share) >> 16;
      }
    }
  }
}

/** Fill an image with a colour. */
export function fill(image: ImageData, [red, green, blue]: Colour): void {
  const pixel = new Uint8Array([red, green, blue, 255]);
  new Uint32Array(image.data.buffer).fill(new Uint32Array(pixel.buffer)[0]!);
}

export class CanvasPoints implements PointLayer {
  readonly kind = "2d";
  readonly canvas = document.createElement("canvas");
  readonly #context = this.canvas.getContext("2d", { alpha: false });
  #x = new Float32Array();
  #y = new Float32Array();
  #style: Style | null = null;
  #paper: Colour = [255, 255, 255];
  #pixels: ImageData | null = null;

  setPoints(x: Float32Array, y: Float32Array): void {
    [this.#x, this.#y] = [x as Float32Array<ArrayBuffer>, y as Float32Array<ArrayBuffer>];
  }

  setStyle(style: Style, paper: Colour): void {
    this.#style = style;
    this.#paper = paper;
  }

  draw(view: View, diameter: number, ratio: number): void {
    const pixelRatio = view.width * view.height * ratio * ratio <= MAX_PIXELS ? ratio : 1;
    const width = Math.max(Math.round(view.width * pixelRatio), 1);
    const height = Math.max(Math.round(view.height * pixelRatio), 1);
    if (this.canvas.width !== width) this.canvas.width = width;
    if (this.canvas.height !== height) this.canvas.height = height;
    if (this.#pixels?.width !== width || this.#pixels.height !== height)
      this.#pixels = new ImageData(width, height);
    fill(this.#pixels, this.#paper);
    if (this.#style)
      paintPoints(this.#pixels, this.#x, this.#y, this.#style, view, diameter, pixelRatio);
    this.#context?.putImageData(this.#pixels, 0, 0);
  }

  destroy(): void {
    this.canvas.remove();
  }
}
