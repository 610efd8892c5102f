/**
 * Points without WebGL: disks are mixed into an array of pixels, which is put on the canvas at
 * once. For 100 000 points that is far faster than a path each. It also draws pictures to keep.
 */
import { USUAL, type PointLayer, type Style } from "./points";
import type { View } from "./view";

/** Above so many pixels a frame would take too long: it is drawn coarser. */
const MOST_PIXELS = 4_000_000;
const STEPS = 2;

interface Disk {
  width: number;
  /** Coverage of each pixel, 0 to 255. */
  cover: Uint8Array;
}

const disks = new Map<number, Disk>();

/** A disk by its diameter in half pixels. */
function diskOf(halves: number): Disk {
  const known = disks.get(halves);
  if (known) return known;
  const across = halves / STEPS;
  const width = Math.ceil(across) + (Math.ceil(across) % 2 === 0 ? 1 : 0);
  const cover = new Uint8Array(width * width);
  const middle = (width - 1) / 2;
  for (let i = 0; i < cover.length; i++) {
    const away = Math.hypot((i % width) - middle, Math.floor(i / width) - middle);
    cover[i] = 255 * Math.min(Math.max(across / 2 + 0.5 - away, 0), 1);
  }
  const made = { width, cover };
  disks.set(halves, made);
  return made;
}

/** Mix points into pixels with straight alpha that are clear, or of a plain colour. */
export function paintPoints(
  pixels: Uint8ClampedArray,
  width: number,
  height: number,
  x: Float32Array,
  y: Float32Array,
  style: Style,
  view: View,
  diameter: number,
  ratio: number,
): void {
  const scale = view.scale * ratio;
  const [left, top] = [view.screenX(0) * ratio, view.screenY(0) * ratio];
  const unit = (STEPS * diameter * ratio) / USUAL;
  const { colour, size, order } = style;
  for (const i of order) {
    const disk = diskOf(Math.max(Math.round(unit * size[i]!), STEPS));
    const half = (disk.width - 1) / 2;
    const [h, v] = [Math.round(left + x[i]! * scale) - half, Math.round(top - y[i]! * scale) - half];
    if (h < 0 || v < 0 || h + disk.width > width || v + disk.width > height) continue;
    const [red, green, blue, alpha] = [
      colour[4 * i]!,
      colour[4 * i + 1]!,
      colour[4 * i + 2]!,
      colour[4 * i + 3]! / 255 / 255,
    ];
    for (let k = 0; k < disk.cover.length; k++) {
      const share = disk.cover[k]! * alpha;
      if (share === 0) continue;
      const at = 4 * ((v + Math.floor(k / disk.width)) * width + h + (k % disk.width));
      const under = (pixels[at + 3]! / 255) * (1 - share);
      const whole = share + under;
      pixels[at] = (red * share + pixels[at]! * under) / whole;
      pixels[at + 1] = (green * share + pixels[at + 1]! * under) / whole;
      pixels[at + 2] = (blue * share + pixels[at + 2]! * under) / whole;
      pixels[at + 3] = 255 * whole;
    }
  }
}

export class CanvasPoints implements PointLayer {
  readonly kind = "2d";
  readonly canvas = document.createElement("canvas");
  readonly #context = this.canvas.getContext("2d");
  #x = new Float32Array();
  #y = new Float32Array();
  #style: Style | null = null;
  #pixels: ImageData | null = null;

  setPoints(x: Float32Array, y: Float32Array): void {
    [this.#x, this.#y] = [x as Float32Array<ArrayBuffer>, y as Float32Array<ArrayBuffer>];
  }

  setStyle(style: Style): void {
    this.#style = style;
  }

  draw(view: View, diameter: number, ratio: number): void {
    const fine = view.width * view.height * ratio * ratio <= MOST_PIXELS ? ratio : 1;
    const width = Math.max(Math.round(view.width * fine), 1);
    const height = Math.max(Math.round(view.height * fine), 1);
    if (this.canvas.width !== width) this.canvas.width = width;
    if (this.canvas.height !== height) this.canvas.height = height;
    if (this.#pixels?.width !== width || this.#pixels.height !== height)
      this.#pixels = new ImageData(width, height);
    else this.#pixels.data.fill(0);
    if (this.#style)
      paintPoints(
        this.#pixels.data, width, height, this.#x, this.#y, this.#style, view, diameter, fine,
      );
    this.#context?.putImageData(this.#pixels, 0, 0);
  }

  destroy(): void {
    this.canvas.remove();
  }
}
