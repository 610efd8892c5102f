/** Opening the audit of a class from any page. */
import { send } from "../api/client";
import type { ModelInfo, SavedAuditResponse, SweepClass } from "../api/types";
import { route } from "./route.svelte";
import { forgetVerdicts } from "./verdicts.svelte";

/**
 * Open the saved audit of a class, or save a new one with the lists that it was audited with.
 * `show` is the part of it to scroll to.
 */
export async function openAudit(model: ModelInfo, entry: SweepClass, show: "repair" | null = null): Promise<void> {
  let audit = entry.audit;
  if (audit === null) {
    const body = { target: entry.target, from_sets: entry.sets };
    audit = (await send<SavedAuditResponse>("POST", `models/${model.number}/audits`, body)).id;
    forgetVerdicts();
  }
  route.go({ page: "audit", params: { audit, class: null, show } });
}
