/** Classes whose errors were compared on this page, by model: the map can be coloured by them. */
import type { ModelInfo } from "../api/types";

export interface ContrastedClass {
  target: number;
  name: string;
}

let byModel = $state.raw<Readonly<Record<string, readonly ContrastedClass[]>>>({});

export const contrasts = {
  of: (model: ModelInfo): readonly ContrastedClass[] => byModel[model.fingerprint] ?? [],
  add(model: ModelInfo, { target, name }: ContrastedClass): void {
    const others = contrasts.of(model).filter((entry) => entry.target !== target);
    byModel = { ...byModel, [model.fingerprint]: [...others, { target, name }] };
  },
};
