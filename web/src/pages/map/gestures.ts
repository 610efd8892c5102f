/** Mouse, touch and keys on a map: pan, zoom, pinch, lasso, hover, click. */
import { cropAt } from "./crops";
import { extend, type Path } from "./lasso";
import type { Plot } from "./plot";

export interface Hooks {
  /** Whether a drag draws a lasso instead of panning, without Shift. */
  lassoing(): boolean;
  onhover(point: number | null): void;
  /** `adds` if a key was held that adds to the selection. */
  onclick(point: number | null, adds: boolean): void;
  onlasso(path: Path): void;
}

const STILL = 4;
const STEP = 60;
const FACTOR = 1.35;
const REACH = 5;

/** The point at a screen position: by its crop, otherwise the nearest dot. */
export function pointAt(plot: Plot, x: number, y: number): number | null {
  const { view, data } = plot;
  const point = cropAt(plot.crops, x, y);
  if (point !== null) return point;
  const reach = (plot.diameter / 2 + REACH) / view.scale;
  return data.grid.nearest(view.mapX(x), view.mapY(y), reach);
}

/** Attach listeners to an element; returns a function that removes them. */
export function listen(element: HTMLElement, plot: Plot, hooks: Hooks): () => void {
  const touching = new Map<number, [x: number, y: number]>();
  let path: Path | null = null;
  let travelled = 0;
  const stop = new AbortController();
  const on = <K extends keyof HTMLElementEventMap>(
    name: K,
    run: (event: HTMLElementEventMap[K]) => void,
  ) => element.addEventListener(name, run, { signal: stop.signal, passive: false });
  const at = (event: MouseEvent): [number, number] => {
    const box = element.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };

  on("pointerdown", (event) => {
    if (event.button !== 0) return;
    element.setPointerCapture(event.pointerId);
    touching.set(event.pointerId, at(event));
    travelled = 0;
    if (touching.size === 1 && (event.shiftKey || hooks.lassoing())) path = [];
    else if (path) {
      path = null; // a second finger pinches
      plot.mark({ lasso: [] });
    }
  });

  on("pointermove", (event) => {
    const [x, y] = at(event);
    const before = touching.get(event.pointerId);
    if (!before) {
      hooks.onhover(pointAt(plot, x, y));
      return;
    }
    const [dx, dy] = [x - before[0], y - before[1]];
    travelled += Math.hypot(dx, dy);
    touching.set(event.pointerId, [x, y]);
    if (path) {
      extend(path, plot.view.mapX(x), plot.view.mapY(y), 3 / plot.view.scale);
      plot.mark({ lasso: [...path] });
    } else if (travelled > STILL || touching.size > 1) {
      hooks.onhover(null);
      if (touching.size === 2) pinch(event.pointerId, before, [x, y]);
      else plot.view.pan(dx, dy);
      plot.hold();
      plot.redraw();
    }
  });

  /** Zoom and pan so that the map stays under both fingers. */
  function pinch(moved: number, before: [number, number], now: [number, number]): void {
    const other = [...touching].find(([id]) => id !== moved)?.[1];
    if (!other) return;
    const apart = (place: [number, number]) =>
      Math.max(Math.hypot(place[0] - other[0], place[1] - other[1]), 1);
    plot.view.pan((now[0] - before[0]) / 2, (now[1] - before[1]) / 2);
    const [x, y] = [(now[0] + other[0]) / 2, (now[1] + other[1]) / 2];
    plot.view.zoomAt(apart(now) / apart(before), x, y);
  }

  function up(event: PointerEvent): void {
    if (!touching.delete(event.pointerId)) return;
    if (path && travelled > STILL) hooks.onlasso(path);
    else if (travelled <= STILL && touching.size === 0 && event.type === "pointerup")
      hooks.onclick(pointAt(plot, ...at(event)), event.shiftKey || event.ctrlKey || event.metaKey);
    if (path) plot.mark({ lasso: [] });
    path = null;
  }
  on("pointerup", up);
  on("pointercancel", up);
  on("pointerleave", () => hooks.onhover(null));

  on("wheel", (event) => {
    event.preventDefault();
    const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 16 : 1;
    plot.view.zoomAt(Math.exp(-event.deltaY * lines * 0.0016), ...at(event));
    plot.hold();
    plot.redraw();
  });
  on("dblclick", (event) => {
    plot.view.zoomAt(2, ...at(event));
    plot.hold();
    plot.redraw();
  });
  on("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const run = KEYS[event.key];
    if (!run) return;
    event.preventDefault();
    run(plot);
    plot.hold();
    plot.redraw();
  });
  return () => stop.abort();
}

const KEYS: Record<string, (plot: Plot) => void> = {
  ArrowLeft: ({ view }) => view.pan(STEP, 0),
  ArrowRight: ({ view }) => view.pan(-STEP, 0),
  ArrowUp: ({ view }) => view.pan(0, STEP),
  ArrowDown: ({ view }) => view.pan(0, -STEP),
  "+": ({ view }) => view.zoomAt(FACTOR),
  "=": ({ view }) => view.zoomAt(FACTOR),
  "-": ({ view }) => view.zoomAt(1 / FACTOR),
  "0": ({ view }) => view.fit(),
};

/** Zoom around the centre. */
export function zoomStep(plot: Plot, nearer: boolean): void {
  plot.view.zoomAt(nearer ? FACTOR : 1 / FACTOR);
  plot.hold();
  plot.redraw();
}
