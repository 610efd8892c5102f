/** What a selection holds, counted here: a static export has no server to ask. */
import type { ModelInfo, SelectionResponse } from "../../api/types";
import { csv } from "../../parts/csv";
import { nameOf } from "../../state/models.svelte";
import type { ComponentLabels, MapData } from "./data";

const LISTED = 200;

/** Count as the server does: most frequent first, equal counts by name. */
function counted(names: (string | null)[], everyone: (string | null)[]) {
  const count = (list: (string | null)[]): Map<string, number> => {
    const found = new Map<string, number>();
    for (const name of list) if (name !== null) found.set(name, (found.get(name) ?? 0) + 1);
    return found;
  };
  const all = count(everyone);
  return [...count(names)]
    .sort(([a, m], [b, n]) => n - m || (a < b ? -1 : 1))
    .map(([name, many]) => ({
      name,
      count: many,
      share: many / names.length,
      of: all.get(name) ?? many,
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
  const chosen = [...points];
  const named = counted(chosen.map(labelOf), everyone.map(labelOf));
  const layers = counted(chosen.map(layerOf), everyone.map(layerOf));
  return {
    count: chosen.length,
    unlabelled: chosen.filter((point) => labelOf(point) === null).length,
    source: labels?.source ?? "",
    different: named.length,
    labels: named,
    layers,
    components: chosen.slice(0, LISTED).map((point) => ({
      component: nameOf(model, data.row[point]!),
      label: labelOf(point),
    })),
  };
}

/** The same columns as the server's file. */
export function tableOf(
  model: ModelInfo,
  data: MapData,
  labels: ComponentLabels | null,
  points: Uint32Array,
): Blob {
  const head = ["row", "component", "layer", "index", "sign", "x", "y", "cluster", "label"];
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
      data.x[point],
      data.y[point],
      data.cluster[point],
      labels?.names[labels.code[point]!],
    ];
  });
  return csv(head, lines);
}
