/**
 * Rendering of the map: a canvas of points, an overlay canvas, and the view.
 *
 * It draws at most once per frame, and only after changes. While the WebGL context is lost, the
 * points are drawn on a 2D canvas.
 */
import { cropsOf, type Crop } from "./crops";
import type { MapData } from "./data";
import type { Rect } from "./labels";
import { drawOverlay, type Marks } from "./overlay";
import type { Palette } from "./paint";
import { CanvasPoints } from "./points-2d";
import { GlPoints } from "./points-gl";
import { diameterOf, type PointLayer, type Style } from "./points";
import { View } from "./view";

export interface Seen {
  view: View;
  crops: readonly Crop[];
}

export class Plot {
  readonly view: View;
  crops: readonly Crop[] = [];
  #layer: PointLayer;
  readonly #over = document.createElement("canvas");
  readonly #watch: ResizeObserver;
  #style: Style | null = null;
  #marks: Marks = { rings: [], chosen: null, hovered: null, lasso: [], labels: [] };
  #palette: Palette | null = null;
  #frameRequest = 0;
  #frames = 0;
  /** Whether the points must be redrawn, not only the overlay. */
  #moved = true;

  /**
   * @param host element that the canvases fill.
   * @param showCrops whether dots become crops at high zoom.
   * @param onseen called after each frame in which the view has changed.
   */
  constructor(
    readonly host: HTMLElement,
    readonly data: MapData,
    readonly showCrops: boolean,
    readonly onseen: (seen: Seen) => void,
  ) {
    this.view = new View(data.grid.box);
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
    this.#marks = { ...this.#marks, ...marks };
    this.redraw(false);
  }

  get marks(): Marks {
    return this.#marks;
  }

  get diameter(): number {
    return diameterOf(this.data.count, this.view);
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
    if (moved) {
      this.#layer.draw(view, this.diameter, ratio);
      const first = [this.#marks.chosen, ...this.#marks.rings].filter((concept) => concept !== null);
      this.crops = this.showCrops ? cropsOf(view, this.data.grid, first) : [];
    }
    const [width, height] = [Math.round(view.width * ratio), Math.round(view.height * ratio)];
    if (this.#over.width !== width) this.#over.width = width;
    if (this.#over.height !== height) this.#over.height = height;
    const context = this.#over.getContext("2d");
    if (context) {
      context.setTransform(ratio, 0, 0, ratio, 0, 0);
      context.clearRect(0, 0, view.width, view.height);
      drawOverlay(
        context, view, this.data, this.#marks, this.crops, this.diameter, this.#palette,
        this.#taken(),
      );
    }
    this.host.dataset.frames = String((this.#frames += 1));
    if (moved) this.onseen({ view: view.resized(view.width, view.height), crops: this.crops });
  }

  /** Where buttons and the legend lie. */
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
