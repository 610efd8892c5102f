/**
 * Components that a person has marked as spurious for a class: saved as reviews of its audit.
 *
 * A mark changes the verdicts that all pages show, so these are requested again.
 */
import { get, send } from "../api/client";
import { resource, type Resource } from "../api/resource.svelte";
import { isStaticExport } from "../api/static-export";
import type { Marks, MarkRequest, ModelInfo } from "../api/types";
import { forgetVerdicts, verdictEdition } from "./verdicts.svelte";

const kept = new Map<string, Promise<Marks>>();
let changed = $state.raw<{ audit: number; model: number } | null>(null);

/** The audit that the latest mark was saved in; an open editor of it reads it again. */
export function lastMarked(): { audit: number; model: number } | null {
  return changed;
}

/** The marks of a class; one request serves all toggles of a page. Null as class requests nothing. */
export function marksOf(model: () => ModelInfo | null, target: () => number | null): Resource<Marks> {
  return resource<Marks>(
    () => {
      const [of, number, edition] = [model(), target(), verdictEdition()];
      if (!of?.relevance || number === null || isStaticExport()) return null;
      const path = `models/${of.number}/marks/${number}`;
      const key = `${edition} ${of.fingerprint} ${path}`;
      return () => {
        const request = kept.get(key) ?? get<Marks>(path);
        kept.set(key, request);
        request.catch(() => kept.delete(key));
        return request;
      };
    },
    { keep: true },
  );
}

/** Mark components as spurious for a class, or take the marks back. */
export async function mark(
  model: ModelInfo,
  target: number,
  components: readonly string[],
  spurious: boolean,
): Promise<Marks> {
  const body: MarkRequest = { components: [...components], spurious };
  const marks = await send<Marks>("PUT", `models/${model.number}/marks/${target}`, body);
  kept.clear();
  forgetVerdicts();
  if (marks.audit !== null) changed = { audit: marks.audit, model: model.number };
  return marks;
}
