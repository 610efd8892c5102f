/**
 * The visible part of the map. Map units are those of the layout, with y upwards; screen units are
 * CSS pixels from the top left, with y downwards. Zoom 1 shows the whole map.
 */
export interface Box {
  left: number;
  right: number;
  bottom: number;
  top: number;
}

/** Margins of the whole map, for the controls and the legend. */
const FREE = { left: 40, right: 64, top: 60 };
/** Below, as much as the legend takes, but never much of a low map. */
const BELOW = { least: 64, share: 0.16, most: 132 };
const LEAST = 0.6;
const MOST = 2000;

export class View {
  width = 1;
  height = 1;
  zoom = 1;
  x: number;
  y: number;

  constructor(readonly box: Box) {
    this.x = (box.left + box.right) / 2;
    this.y = (box.bottom + box.top) / 2;
  }

  private get below(): number {
    return Math.min(Math.max(BELOW.share * this.height, BELOW.least), BELOW.most);
  }

  /** Pixels of one unit of the map. */
  get scale(): number {
    const across = Math.max(this.width - FREE.left - FREE.right, 40);
    const down = Math.max(this.height - FREE.top - this.below, 40);
    const { left, right, bottom, top } = this.box;
    return this.zoom * Math.min(across / (right - left || 1), down / (top - bottom || 1));
  }

  /** Screen position of the centre of the view. */
  get middleX(): number {
    return (this.width + FREE.left - FREE.right) / 2;
  }

  get middleY(): number {
    return (this.height + FREE.top - this.below) / 2;
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
    this.zoom = Math.min(Math.max(this.zoom * factor, LEAST), MOST);
    this.goTo(this.x + h - this.mapX(x), this.y + v - this.mapY(y));
  }

  /** Look at a place; the middle of the screen never leaves the map. */
  goTo(x: number, y: number, zoom = this.zoom): void {
    const { left, right, bottom, top } = this.box;
    this.x = Math.min(Math.max(x, left), right);
    this.y = Math.min(Math.max(y, bottom), top);
    this.zoom = Math.min(Math.max(zoom, LEAST), MOST);
  }

  fit(): void {
    const { left, right, bottom, top } = this.box;
    this.goTo((left + right) / 2, (bottom + top) / 2, 1);
  }

  /** A copy for another size of canvas: the same centre and zoom. */
  resized(width: number, height: number): View {
    const other = new View(this.box);
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
