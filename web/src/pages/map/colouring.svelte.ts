/** The current colouring of the map: groups or values, and the legend. */
import { untrack } from "svelte";

import { get, type Params } from "../../api/client";
import { resource } from "../../api/resource.svelte";
import { isStaticExport } from "../../api/static-export";
import type { ClassSummary, MapPlaces, ModelInfo } from "../../api/types";
import { nameOf } from "../../state/models.svelte";
import { contrasts } from "../../state/contrasts.svelte";
import { route } from "../../state/route.svelte";
import { theme, token } from "../../state/theme.svelte";
import { classVerdicts } from "../../state/verdicts.svelte";
import { VERDICTS } from "../../parts/verdict";
import { colourBy, colourOptions, TITLES } from "./colour-options";
import { hex, parse } from "./colour";
import { loadAlignment, loadValues, type MapData, type ServedValues } from "./data";
import { legendOf, type Groups, type Paint, type Palette } from "./paint";
import { quantiles } from "./quantiles";
import { readPalette } from "./palette";

/** Share of the values that may lie beyond each end of a scale. */
const TAIL = 0.02;

/** Parameters of the query in the route. */
function queryOf(): Params {
  return { q: route.all("q"), without: route.all("without"), query_id: route.get("query_id") };
}

export class Colouring {
  readonly #query = $derived(JSON.stringify(queryOf()));
  /** Whether there is a query with alignments; words need an embedder of texts. */
  readonly aligned = $derived.by(() => {
    return route.get("query_id") !== null || (route.all("q").length > 0 && this.model.has_text);
  });
  /** Classes that can be chosen for a contrast: those that were compared on this page. */
  readonly contrasted = $derived.by(() => contrasts.of(this.model));
  readonly options = $derived.by(() => {
    // a link to a contrast computes it, unless there is no model to run
    const linked = route.get("by") === "contrast" && route.get("class") !== null && !isStaticExport();
    return colourOptions(this.model, this.aligned, this.contrasted.length > 0 || linked);
  });
  readonly by = $derived.by(() => colourBy(route.get("by"), this.options));
  readonly #requestedClass = $derived(route.get("class"));
  readonly classes = resource<ClassSummary[]>(() => {
    if (this.by !== "relevance" && this.by !== "verdict") return null;
    return (signal) => get(`models/${this.model.number}/classes`, { signal });
  });
  /** Logit of the class, once known. */
  readonly target = $derived.by(() => {
    if (!["relevance", "contrast", "verdict"].includes(this.by)) return null;
    if (this.#requestedClass !== null) return Number(this.#requestedClass);
    const first = this.by === "contrast" ? this.contrasted.at(-1) : this.classes.value?.[0];
    return first?.target ?? null;
  });
  readonly values = resource<ServedValues>(() => {
    const { by, target, model, data } = this;
    if (by === "place" || by === "layer" || by === "verdict") return null;
    if (by === "query") {
      void this.#query;
      const params = untrack(queryOf);
      return (signal, progress) => loadAlignment(model, data, params, { signal, progress });
    }
    if ((by === "relevance" || by === "contrast") && target === null) return null;
    return (signal, progress) => loadValues(model, by, target, { signal, progress });
  });
  readonly verdicts = classVerdicts(
    () => this.model,
    () => (this.by === "verdict" ? this.target : null),
  );
  readonly palette: Palette = $derived.by(() => {
    void theme.dark;
    return readPalette();
  });
  readonly paint: Paint | null = $derived.by(() => this.#paint());
  readonly legend = $derived.by(() => this.paint && legendOf(this.paint, this.palette));

  constructor(
    readonly model: ModelInfo,
    readonly data: MapData,
    readonly places: () => MapPlaces | null,
  ) {}

  #paint(): Paint | null {
    if (this.by === "layer") return this.#layers();
    if (this.by === "place") return this.#places();
    if (this.by === "verdict") return this.#verdicts();
    const values = this.values.value;
    if (!values || values.signed || this.by === "query") return values && { kind: "values", ...values };
    // clip the scale, since a few extreme values would use up most colours
    const [low, high] = quantiles(values.of, [TAIL, 1 - TAIL]);
    return { kind: "values", ...values, low: low ?? values.low, high: high ?? values.high };
  }

  #layers(): Groups {
    const counts = this.model.layers.map(() => 0);
    for (const layer of this.data.layer) counts[layer]! += 1;
    const names = this.model.layers.map((layer) => layer.name);
    return { kind: "groups", title: TITLES.layer, of: this.data.layer, names, counts, ordered: true };
  }

  #places(): Groups | null {
    const places = this.places()?.places;
    if (!places) return null;
    const inOrder = places.toSorted((a, b) => a.place - b.place);
    return {
      kind: "groups",
      title: TITLES.place,
      of: this.data.place,
      names: inOrder.map((item) => item.labels.join(", ") || `place ${item.place + 1}`),
      counts: inOrder.map((item) => item.size),
      ordered: false,
      colours: inOrder.map((item) => hex(theme.dark ? item.dark : item.light)),
    };
  }

  #verdicts(): Groups | null {
    const { response } = this.verdicts;
    if (!response) return null;
    void theme.dark;
    const of = new Int8Array(this.data.count).fill(-1);
    const counts = VERDICTS.map(() => 0);
    this.data.row.forEach((row, point) => {
      const verdict = this.verdicts.of(nameOf(this.model, row))?.verdict;
      if (!verdict) return;
      const group = VERDICTS.indexOf(verdict);
      of[point] = group;
      counts[group]! += 1;
    });
    return {
      kind: "groups",
      title: `verdict for “${response.name}”`,
      of,
      names: VERDICTS,
      counts,
      ordered: false,
      colours: VERDICTS.map((verdict) => parse(token(verdict))),
    };
  }
}
