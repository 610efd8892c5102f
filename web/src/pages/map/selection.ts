/** Summary of a selection, computed in the browser for static exports. */
import type { ModelInfo, SelectionResponse } from "../../api/types";
import { csv } from "../../parts/csv";
import { nameOf } from "../../state/models.svelte";
import type { ComponentLabels, MapData } from "./data";

const LISTED = 200;

/** Count as the server does: most frequent first, equal counts by name. */
function counted(names: (string | null)[], everyone: (string | null)[]) {
  const count = (list: (string | null)[]): Map<string, number> => {
    const counts = new Map<string, number>();
    for (const name of list) if (name !== null) counts.set(name, (counts.get(name) ?? 0) + 1);
    return counts;
  };
  const all = count(everyone);
  return [...count(names)]
    .sort(([a, m], [b, n]) => n - m || (a < b ? -1 : 1))
    .map(([name, n]) => ({
      name,
      count: n,
      share: n / names.length,
      total: all.get(name) ?? n,
    }));
}

export function describe(
  model: ModelInfo,
  data: MapData,
  labels: ComponentLabels | null,
  points: Uint32Array,
): SelectionResponse {
  const labelOf = (point: number): string | null => labels?.names[labels.code[point]!] ?? null;
  const layerOf = (point: number): string | null => model.layers[data.layer[point]!]?.name ?? null;
  const everyone = Array.from({ length: data.count }, (_, point) => point);
  const selected = [...points];
  const labelCounts = counted(selected.map(labelOf), everyone.map(labelOf));
  const layers = counted(selected.map(layerOf), everyone.map(layerOf));
  return {
    count: selected.length,
    unlabelled: selected.filter((point) => labelOf(point) === null).length,
    source: labels?.source ?? "",
    distinct_labels: labelCounts.length,
    labels: labelCounts,
    layers,
    components: selected.slice(0, LISTED).map((point) => ({
      component: nameOf(model, data.row[point]!),
      label: labelOf(point),
    })),
  };
}

/** CSV with the same columns as that of the server. */
export function tableOf(
  model: ModelInfo,
  data: MapData,
  labels: ComponentLabels | null,
  points: Uint32Array,
): Blob {
  const head = ["row", "component", "layer", "index", "sign", "place", "label"];
  const lines = Array.from(points, (point) => {
    const name = nameOf(model, data.row[point]!);
    const cut = name.lastIndexOf(":");
    const number = name.slice(cut + 1);
    return [
      data.row[point],
      name,
      name.slice(0, cut),
      Number(number.replace("-", "")),
      number.startsWith("-") ? -1 : 1,
      data.place[point],
      labels?.names[labels.code[point]!],
    ];
  });
  return csv(head, lines);
}
