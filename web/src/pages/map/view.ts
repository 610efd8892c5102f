/**
 * The visible part of the map. Map units are those of the layout, with y upwards; screen units are
 * CSS pixels from the top left, with y downwards. Zoom 1 shows the whole map.
 */
import type { Grid } from "./grid";

export interface Box {
  left: number;
  right: number;
  bottom: number;
  top: number;
}

/** Margins of the whole map; the buttons are on the right. */
const FREE = { left: 12, right: 50, top: 12, below: 12 };
/** How far the whole map can be moved, as a share of its half. */
const SLACK = 0.25;
/** The highest zoom is at least this. */
const LEAST_RANGE = 3;
/** Pixels between close neighbours at the highest zoom: this quantile of all. */
const APART = { pixels: 90, quantile: 0.25 };

/** Pixels of one unit at the highest zoom of maps where close neighbours are told apart there. */
export function highestScale(...grids: Grid[]): number {
  const spacing = Float32Array.from(grids.flatMap((grid) => [...grid.spacing()])).sort();
  return APART.pixels / (spacing[Math.floor(APART.quantile * spacing.length)] || 1);
}

export class View {
  width = 1;
  height = 1;
  zoom = 1;
  x: number;
  y: number;

  /**
   * @param box what is visible at zoom 1.
   * @param most pixels of one unit at the highest zoom.
   */
  constructor(
    readonly box: Box,
    readonly most = Infinity,
  ) {
    this.x = (box.left + box.right) / 2;
    this.y = (box.bottom + box.top) / 2;
  }

  /** Pixels of one unit of the map at zoom 1. */
  private get whole(): number {
    const across = Math.max(this.width - FREE.left - FREE.right, 40);
    const down = Math.max(this.height - FREE.top - FREE.below, 40);
    const { left, right, bottom, top } = this.box;
    return Math.min(across / (right - left || 1), down / (top - bottom || 1));
  }

  /** Pixels of one unit of the map. */
  get scale(): number {
    return this.zoom * this.whole;
  }

  /** A zoom that is possible: from the whole map to where crops are large. */
  private possible(zoom: number): number {
    // before the window has a size, links are taken as they are
    const most = this.width > 1 ? Math.max(this.most / this.whole, LEAST_RANGE) : Infinity;
    return Math.min(Math.max(zoom, 1), most);
  }

  /** Screen position of the centre of the view. */
  get middleX(): number {
    return (this.width + FREE.left - FREE.right) / 2;
  }

  get middleY(): number {
    return (this.height + FREE.top - FREE.below) / 2;
  }

  screenX(x: number): number {
    return this.middleX + (x - this.x) * this.scale;
  }

  screenY(y: number): number {
    return this.middleY - (y - this.y) * this.scale;
  }

  mapX(x: number): number {
    return this.x + (x - this.middleX) / this.scale;
  }

  mapY(y: number): number {
    return this.y - (y - this.middleY) / this.scale;
  }

  /** The part of the map on the screen. */
  get seen(): Box {
    return {
      left: this.mapX(0),
      right: this.mapX(this.width),
      bottom: this.mapY(this.height),
      top: this.mapY(0),
    };
  }

  shows(x: number, y: number, margin = 0): boolean {
    const [h, v] = [this.screenX(x), this.screenY(y)];
    return (
      h >= margin && h <= this.width - margin && v >= margin && v <= this.height - margin
    );
  }

  pan(dx: number, dy: number): void {
    this.goTo(this.x - dx / this.scale, this.y + dy / this.scale);
  }

  /** Zoom so that what lies under a point of the screen stays there. */
  zoomAt(factor: number, x = this.middleX, y = this.middleY): void {
    const [h, v] = [this.mapX(x), this.mapY(y)];
    this.zoom = this.possible(this.zoom * factor);
    if (this.zoom === 1 && factor < 1) return this.fit();
    this.goTo(this.x + h - this.mapX(x), this.y + v - this.mapY(y));
  }

  /** Look at a place; the map never leaves the window. */
  goTo(x: number, y: number, zoom = this.zoom): void {
    const { left, right, bottom, top } = this.box;
    this.zoom = this.possible(zoom);
    const reach = 1 - (1 - SLACK) / this.zoom;
    const within = (value: number, low: number, high: number): number => {
      const [middle, most] = [(low + high) / 2, (reach * (high - low)) / 2];
      return Math.min(Math.max(value, middle - most), middle + most);
    };
    this.x = within(x, left, right);
    this.y = within(y, bottom, top);
  }

  fit(): void {
    const { left, right, bottom, top } = this.box;
    this.goTo((left + right) / 2, (bottom + top) / 2, 1);
  }

  /** Look at a part of the map, with some room around it. */
  show({ left, right, bottom, top }: Box): void {
    const [across, down] = [right - left, top - bottom];
    const whole = this.box;
    const zoom = Math.min(
      (whole.right - whole.left) / (across || 1),
      (whole.top - whole.bottom) / (down || 1),
    );
    this.goTo((left + right) / 2, (bottom + top) / 2, 0.7 * zoom);
  }

  /** A copy for another size of canvas: the same centre and zoom. */
  resized(width: number, height: number): View {
    const other = new View(this.box, this.most);
    Object.assign(other, { width, height, zoom: this.zoom, x: this.x, y: this.y });
    return other;
  }

  /** Text for links, `2.5@3.12,-4.08`; empty if the whole map is visible. */
  toString(): string {
    const short = (value: number, digits: number): string => String(+value.toFixed(digits));
    const initial = new View(this.box);
    const digits = Math.max(2, Math.ceil(Math.log10(this.scale)));
    const same = Math.abs(this.x - initial.x) + Math.abs(this.y - initial.y) < 10 ** -digits;
    if (same && Math.abs(this.zoom - 1) < 1e-3) return "";
    return `${short(this.zoom, 2)}@${short(this.x, digits)},${short(this.y, digits)}`;
  }

  /** Read a view from a link; false if it is invalid. */
  read(text: string | null): boolean {
    const match = /^([\d.]+)@(-?[\d.]+),(-?[\d.]+)$/.exec(text ?? "");
    const [zoom = NaN, x = NaN, y = NaN] = (match ?? []).slice(1).map(Number);
    if (![zoom, x, y].every(Number.isFinite) || zoom <= 0) return false;
    this.goTo(x, y, zoom);
    return true;
  }
}
