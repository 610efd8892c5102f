/**
 * Verdicts on the components of a class, and the audit of all classes: a layer that all pages show.
 *
 * Call `classVerdicts` and `sweepOf` while a component is initialised. Responses are kept until an
 * audit is edited. Nothing is requested for models without class relevance.
 */
import { get, type JobStatus } from "../api/client";
import { resource, type Resource } from "../api/resource.svelte";
import type { ComponentVerdict, ModelInfo, SweepResponse, VerdictsResponse } from "../api/types";

const kept = new Map<string, unknown>();
let edition = $state(0);

/** Request verdicts again: an audit was edited, added or removed. */
export function forgetVerdicts(): void {
  kept.clear();
  edition += 1;
}

/** Changes with every edit of an audit. */
export function verdictEdition(): number {
  return edition;
}

/** The path of a request, and a function that reads the kept response or sends the request. */
function request<T>(model: ModelInfo | null, path: string) {
  const current = edition; // a response that arrives after an edit is not used again
  if (!model?.relevance) return null;
  const address = `models/${model.number}/${path}`;
  const key = `${current} ${model.fingerprint} ${address}`;
  return async (signal: AbortSignal, progress: (status: JobStatus) => void): Promise<T> => {
    const response = (kept.get(key) as T | undefined) ?? (await get<T>(address, { signal, progress }));
    kept.set(key, response);
    return response;
  };
}

/** The audit of all classes of a model, smallest p first. */
export function sweepOf(model: () => ModelInfo | null): Resource<SweepResponse> {
  return resource<SweepResponse>(() => request(model(), "sweep"), { keep: true });
}

export interface ClassVerdicts {
  readonly response: VerdictsResponse | null;
  /** The verdict on a component; null if there is none, or not yet. */
  of(component: string): ComponentVerdict | null;
}

/** The verdicts for a class; null as class requests nothing. */
export function classVerdicts(
  model: () => ModelInfo | null,
  target: () => number | null,
): ClassVerdicts {
  const state = resource<VerdictsResponse>(() => {
    const number = target();
    return number === null ? null : request(model(), `verdicts/${number}`);
  });
  const byName = $derived(
    new Map((state.value?.components ?? []).map((entry) => [entry.component, entry])),
  );
  return {
    get response() {
      return state.value;
    },
    of: (component) => byName.get(component) ?? null,
  };
}
