/**
 * The selected components of the map, or one place as a whole; kept in the link.
 *
 * Too many for a link are kept as the path of the lasso; components that were added or removed
 * afterwards are the rows beside it.
 */
import { route } from "../../state/route.svelte";
import type { MapData } from "./data";
import { formatPath, inside, readPath, type Path } from "./lasso";
import { formatRows, MOST_IN_LINK, readRows } from "./selected-rows";

/** The map's longer side in the steps of a path's coordinates. */
const STEPS = 20_000;

export class PickedPoints {
  readonly #rows = $derived(route.get("picked"));
  readonly #path = $derived(route.get("lasso"));
  readonly #placeLink = $derived(route.get("place"));
  readonly #inPath = $derived.by(() =>
    this.#path === null ? null : inside(readPath(this.#path), this.data.grid),
  );

  /** The place that is selected as a whole. */
  readonly place = $derived.by(() => {
    const number = this.#placeLink === null ? NaN : Number(this.#placeLink);
    return Number.isInteger(number) && this.data.place.includes(number) ? number : null;
  });

  /** Ascending; null if nothing is selected. */
  readonly points = $derived.by((): Uint32Array | null => {
    const { place, data } = this;
    if (place !== null) return ofPlace(data, place);
    const chosen = new Set(this.#inPath ?? []);
    for (const row of this.#rows === null ? [] : readRows(this.#rows)) {
      const point = data.pointOf(row);
      if (point !== null && !chosen.delete(point)) chosen.add(point);
    }
    return chosen.size ? Uint32Array.from(chosen).sort() : null;
  });

  constructor(readonly data: MapData) {}

  /** Select what is inside a lasso. */
  setPath(path: Path): void {
    const points = inside(path, this.data.grid);
    if (points.length <= MOST_IN_LINK) return this.#set(points);
    const { left, right, bottom, top } = this.data.grid.box;
    const digits = Math.ceil(Math.log10(STEPS / Math.max(right - left, top - bottom)));
    const lasso = formatPath(path, this.data.grid, Math.max(digits, 0));
    route.go({ params: { lasso, picked: null, place: null } });
  }

  setPlace(place: number): void {
    route.go({ params: { place, picked: null, lasso: null } });
  }

  /** Add a component, or remove it. */
  toggle(point: number): void {
    if (this.#path === null || this.place !== null) {
      const now = new Set(this.points ?? []);
      if (!now.delete(point)) now.add(point);
      return this.#set(Uint32Array.from(now).sort());
    }
    const rows = new Set(this.#rows === null ? [] : readRows(this.#rows));
    const row = this.data.row[point]!;
    if (!rows.delete(row)) rows.add(row);
    const beside = [...rows].sort((a, b) => a - b);
    route.go({ params: { picked: beside.length ? formatRows(beside) : null } });
  }

  clear(): void {
    route.go({ params: { picked: null, lasso: null, place: null } });
  }

  #set(points: Uint32Array): void {
    const rows = Array.from(points, (point) => this.data.row[point]!).sort((a, b) => a - b);
    route.go({ params: { picked: rows.length ? formatRows(rows) : null, lasso: null, place: null } });
  }
}

function ofPlace(data: MapData, place: number): Uint32Array {
  const points: number[] = [];
  data.place.forEach((value, point) => value === place && points.push(point));
  return Uint32Array.from(points);
}
