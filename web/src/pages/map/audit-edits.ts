/** Edits of a saved audit from the map; a new one is made where there is none. */
import { get, send } from "../../api/client";
import { ApiError } from "../../api/errors";
import type { SavedAuditResponse } from "../../api/types";

export type Side = "valid" | "spurious";

export interface AuditTarget {
  /** Path of the audits of a model. */
  base: string;
  /** The audit, or null for a new one of the class `target`. */
  id: number | null;
  target: number;
}

type Edit = (audit: SavedAuditResponse) => Record<string, unknown>;

/** Add a concept to a list; it leaves the other one. */
export function addConcept(target: AuditTarget, side: Side, text: string): Promise<SavedAuditResponse> {
  const other = side === "valid" ? "spurious" : "valid";
  return change(target, (audit) => ({
    [side]: [...audit[side].filter((term) => term.text !== text), { text, path: [], images: [] }],
    [other]: audit[other].filter((term) => term.text !== text),
  }));
}

/** Edit the current revision; once more if someone else edited it meanwhile. */
async function change({ base, id, target }: AuditTarget, edit: Edit): Promise<SavedAuditResponse> {
  let audit = await (id === null
    ? send<SavedAuditResponse>("POST", base, { target })
    : get<SavedAuditResponse>(`${base}/${id}`));
  for (let attempt = 0; ; attempt++)
    try {
      const body = { revision: audit.revision, ...edit(audit) };
      return await send<SavedAuditResponse>("PUT", `${base}/${audit.id}`, body);
    } catch (error) {
      if (!(error instanceof ApiError) || error.kind !== "EditError" || attempt) throw error;
      audit = await get<SavedAuditResponse>(`${base}/${audit.id}`);
    }
}
