/** The current colouring of the map: groups or values, and the legend. */
import { untrack } from "svelte";

import { get, type Params } from "../../api/client";
import { resource } from "../../api/resource.svelte";
import { isStaticExport } from "../../api/static-export";
import type { ClassSummary, MapClusters, ModelInfo } from "../../api/types";
import { contrasts } from "../../state/contrasts.svelte";
import { route } from "../../state/route.svelte";
import { theme } from "../../state/theme.svelte";
import { colourBy, colourOptions, TITLES } from "./colour-options";
import { css } from "./colour";
import { loadAlignment, loadValues, type MapData, type ServedValues } from "./data";
import { groupColours, legendOf, type Groups, type Paint, type Palette } from "./paint";
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
    if (this.by !== "relevance") return null;
    return (signal) => get(`models/${this.model.number}/classes`, { signal });
  });
  /** Logit of the class, once known. */
  readonly target = $derived.by(() => {
    if (this.by !== "relevance" && this.by !== "contrast") return null;
    if (this.#requestedClass !== null) return Number(this.#requestedClass);
    const first = this.by === "contrast" ? this.contrasted.at(-1) : this.classes.value?.[0];
    return first?.target ?? null;
  });
  readonly values = resource<ServedValues>(() => {
    const { by, target, model, data } = this;
    if (by === "cluster" || by === "layer") return null;
    if (by === "query") {
      void this.#query;
      const params = untrack(queryOf);
      return (signal, progress) => loadAlignment(model, data, params, { signal, progress });
    }
    if ((by === "relevance" || by === "contrast") && target === null) return null;
    return (signal, progress) => loadValues(model, by, target, { signal, progress });
  });
  readonly palette: Palette = $derived.by(() => {
    void theme.dark;
    return readPalette();
  });
  readonly paint: Paint | null = $derived.by(() => this.#paint());
  readonly legend = $derived.by(() => this.paint && legendOf(this.paint, this.palette));

  constructor(
    readonly model: ModelInfo,
    readonly data: MapData,
    readonly clusters: () => MapClusters | null,
  ) {}

  #paint(): Paint | null {
    if (this.by === "layer") return this.#layers();
    if (this.by === "cluster") return this.#clusters();
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

  #clusters(): Groups | null {
    const clusters = this.clusters()?.clusters;
    if (!clusters) return null;
    const inOrder = clusters.toSorted((a, b) => a.cluster - b.cluster);
    return {
      kind: "groups",
      title: TITLES.cluster,
      of: this.data.cluster,
      names: inOrder.map((item) => item.labels.join(", ") || `cluster ${item.cluster + 1}`),
      counts: inOrder.map((cluster) => cluster.size),
      ordered: false,
    };
  }

  /** Colours of clusters; null while points are coloured by something else. */
  readonly hues = $derived.by(() => {
    const { paint } = this;
    if (this.by !== "cluster" || paint?.kind !== "groups") return null;
    return groupColours(paint, this.palette).map((colour) => css(colour));
  });
}
