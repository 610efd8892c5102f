/** The verdicts of the audit on a group of the graph: the server computes their shares. */
import type { GraphNode } from "../../api/types";
import { VERDICTS, wordOf, type Verdict } from "../../parts/verdict";

export interface VerdictPart {
  /** Null for components that the audit has no verdict on. */
  verdict: Verdict | null;
  /** Share of the group's relevance, in absolute values. */
  share: number;
}

/** The parts of a stacked bar; empty without an audit. */
export function compositionOf({ verdicts }: GraphNode): VerdictPart[] {
  if (!verdicts) return [];
  const known = VERDICTS.map((verdict) => ({ verdict, share: verdicts[verdict] ?? 0 }));
  const rest = 1 - known.reduce((sum, part) => sum + part.share, 0);
  return [...known, { verdict: null, share: rest }].filter((part) => part.share > 1e-6);
}

/** The parts in words, the largest first: "95 % not covered, 5 % valid". */
export function wordsOf(parts: readonly VerdictPart[]): string {
  const ranked = parts.toSorted((a, b) => b.share - a.share);
  const name = (part: VerdictPart) => (part.verdict ? wordOf(part.verdict) : "no verdict");
  if (ranked.length === 1) return name(ranked[0]!);
  return ranked
    .map((part) => `${part.share < 0.005 ? "< 1" : (100 * part.share).toFixed(0)} % ${name(part)}`)
    .join(", ");
}
