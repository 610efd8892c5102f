/**
 * Rendering of the map: a canvas of points, an overlay canvas, and the view.
 *
 * It draws at most once per frame, and only after changes. While the WebGL context is lost, the
 * points are drawn on a 2D canvas.
 */
import { CropChooser, type Crop } from "./crops";
import type { MapData } from "./data";
import { placeLabels, type Place, type PlacedLabel, type Rect } from "./labels";
import { drawOverlay, measureWith, type Marks } from "./overlay";
import type { Palette } from "./paint";
import { frameOf } from "./places";
import { CanvasPoints } from "./points-2d";
import { GlPoints } from "./points-gl";
import { diameterOf, type PointLayer, type Style } from "./points";
import { highestScale, View } from "./view";

/** Pixels of a unit at the highest zoom where each component has room for a crop. */
const LARGEST_UNIT = 128;
/** A component that is brought into the window is this far from its edge, in pixels. */
const INSIDE = 40;

export interface Seen {
  view: View;
  crops: readonly Crop[];
  names: readonly PlacedLabel[];
}

export class Plot {
  readonly view: View;
  crops: readonly Crop[] = [];
  names: readonly PlacedLabel[] = [];
  readonly #chooser: CropChooser;
  #layer: PointLayer;
  readonly #over = document.createElement("canvas");
  readonly #watch: ResizeObserver;
  #style: Style | null = null;
  #marks: Marks;
  #palette: Palette | null = null;
  #frameRequest = 0;
  #frames = 0;
  /** Whether the points must be redrawn, not only the overlay. */
  #moved = true;

  /**
   * @param host element that the canvases fill.
   * @param spread whether each component has room for a crop with a side of 1.
   * @param showCrops whether there are crops.
   * @param onseen called after each frame in which the view has changed.
   */
  constructor(
    readonly host: HTMLElement,
    readonly data: MapData,
    places: readonly Place[],
    readonly spread: boolean,
    readonly showCrops: boolean,
    readonly onseen: (seen: Seen) => void,
  ) {
    const most = spread ? LARGEST_UNIT : highestScale(data.grid);
    this.view = new View(frameOf(data, places, spread), most);
    this.#chooser = new CropChooser(data.grid, places.map((place) => place.medoid), spread);
    this.#marks = {
      rings: [],
      first: [],
      chosen: null,
      hovered: null,
      lasso: [],
      places,
      place: null,
      tinted: true,
      dark: false,
    };
    this.#layer = this.#start();
    host.append(this.#over);
    this.#over.setAttribute("aria-hidden", "true");
    this.#watch = new ResizeObserver(() => this.#resize());
    this.#watch.observe(host);
    this.#resize();
  }

  #start(): PointLayer {
    try {
      let hand: PointLayer | null = null;
      const graphics: GlPoints = new GlPoints(
        () => this.#use((hand = new CanvasPoints())),
        () => {
          hand?.destroy();
          this.#use(graphics);
        },
      );
      return this.#use(graphics);
    } catch {
      return this.#use(new CanvasPoints());
    }
  }

  /** Use a layer of points; a WebGL layer that it replaces is only hidden. */
  #use(layer: PointLayer): PointLayer {
    if (this.#layer && this.#layer !== layer) this.#layer.canvas.remove();
    layer.canvas.setAttribute("aria-hidden", "true");
    this.host.prepend(layer.canvas);
    this.host.dataset.layer = layer.kind;
    this.#layer = layer;
    layer.setPoints(this.data.x, this.data.y);
    if (this.#style && this.#palette) layer.setStyle(this.#style, this.#palette.paper);
    this.redraw();
    return layer;
  }

  setStyle(style: Style, palette: Palette): void {
    this.#style = style;
    this.#palette = palette;
    this.#layer.setStyle(style, palette.paper);
    this.redraw();
  }

  mark(marks: Partial<Marks>): void {
    // matches have crops before others
    const moved = (["rings", "first", "chosen"] as const).some(
      (key) => marks[key] !== undefined && marks[key] !== this.#marks[key],
    );
    this.#marks = { ...this.#marks, ...marks };
    this.redraw(moved);
  }

  get marks(): Marks {
    return this.#marks;
  }

  get diameter(): number {
    const usual = diameterOf(this.data.count, this.view);
    return this.spread ? Math.min(usual, 0.5 * this.view.scale) : usual;
  }

  /** Never look at nothing: bring the nearest component into the window. */
  hold(): void {
    const { view, data } = this;
    let any = false;
    data.grid.visit(view.seen, () => !(any = true));
    const nearest = any ? null : data.grid.closest(view.x, view.y);
    if (nearest === null) return;
    const [x, y] = [view.screenX(data.x[nearest]!), view.screenY(data.y[nearest]!)];
    const inside = (value: number, most: number) => Math.min(Math.max(value, INSIDE), most - INSIDE);
    view.pan(inside(x, view.width) - x, inside(y, view.height) - y);
  }

  /** Draw in the next frame. */
  redraw(moved = true): void {
    this.#moved ||= moved;
    if (!this.#frameRequest) this.#frameRequest = requestAnimationFrame(() => this.#draw());
  }

  #resize(): void {
    const { clientWidth, clientHeight } = this.host;
    if (!clientWidth || !clientHeight) return;
    this.view.width = clientWidth;
    this.view.height = clientHeight;
    this.redraw();
  }

  #draw(): void {
    this.#frameRequest = 0;
    const { view } = this;
    if (!this.#palette || view.width < 2) return;
    const ratio = window.devicePixelRatio || 1;
    const moved = this.#moved;
    this.#moved = false;
    if (moved) this.#layer.draw(view, this.diameter, ratio);
    const [width, height] = [Math.round(view.width * ratio), Math.round(view.height * ratio)];
    if (this.#over.width !== width) this.#over.width = width;
    if (this.#over.height !== height) this.#over.height = height;
    const context = this.#over.getContext("2d");
    if (context) {
      context.setTransform(ratio, 0, 0, ratio, 0, 0);
      context.clearRect(0, 0, view.width, view.height);
      if (moved) this.#arrange(context);
      const { names, crops, diameter } = this;
      drawOverlay(context, view, this.data, this.#marks, names, crops, diameter, this.#palette);
    }
    this.host.dataset.frames = String((this.#frames += 1));
    const { crops, names } = this;
    if (moved) this.onseen({ view: view.resized(view.width, view.height), crops, names });
  }

  /** Place the names, and crops where they leave room. */
  #arrange(context: CanvasRenderingContext2D): void {
    const { view, spread } = this;
    const { places, chosen, first, rings } = this.#marks;
    const half = spread && this.showCrops ? 0.44 * this.#chooser.sizeOf(view) : this.diameter / 2;
    const measure = measureWith(context);
    this.names = placeLabels(view, places, this.data.grid, half, measure, this.#taken());
    const wanted = [chosen, ...rings, ...first].filter((point) => point !== null);
    const boxes = this.names.map((name) => name.box);
    this.crops = this.showCrops ? this.#chooser.choose(view, wanted, boxes) : [];
  }

  /** Where the buttons are. */
  #taken(): Rect[] {
    const at = this.host.getBoundingClientRect();
    return [...(this.host.closest("[data-points]")?.querySelectorAll("[data-over]") ?? [])].map(
      (item) => {
        const box = item.getBoundingClientRect();
        return [box.left - at.left, box.top - at.top, box.width, box.height];
      },
    );
  }

  destroy(): void {
    cancelAnimationFrame(this.#frameRequest);
    this.#watch.disconnect();
    this.#layer.destroy();
    this.#over.remove();
  }
}
