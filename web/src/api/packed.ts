/**
 * A static export: answers of the server kept as files beside the page.
 *
 * A page that is opened from disk may not fetch files, but it may load scripts. So each file is
 * a script that delivers answers by their path; `data/index.js` (loaded before the page) says
 * which file has which answer.
 */
import { ApiError } from "./errors";

interface Packed {
  /** File of an answer, by its path; several share one. */
  files: Record<string, string>;
  answers: Map<string, unknown>;
}

declare global {
  interface Window {
    semlensPacked?: { files: Record<string, string> };
    semlensDeliver?: (answers: Record<string, unknown>) => void;
  }
}

const loading = new Map<string, Promise<void>>();
const packed: Packed | null = window.semlensPacked
  ? { files: window.semlensPacked.files, answers: new Map() }
  : null;

if (packed) {
  window.semlensDeliver = (answers) => {
    for (const [path, answer] of Object.entries(answers)) packed.answers.set(path, answer);
  };
}

export function isPacked(): boolean {
  return packed !== null;
}

/** Pictures lie in `data/` under their path, with the query as part of the name. */
export function packedUrl(path: string): string {
  const [name = "", query = ""] = path.split("?", 2);
  const shown = query
    .split("&")
    .filter((part) => part && !part.startsWith("v="))
    .join("&");
  const dot = name.lastIndexOf(".");
  return `data/${name.slice(0, dot)}${shown ? `-${shown.replace(/[=&]/g, "-")}` : ""}${name.slice(dot)}`;
}

export async function packedValue<T>(path: string): Promise<T> {
  const file = packed?.files[path];
  if (!packed || file === undefined) throw missing(path);
  if (!packed.answers.has(path)) await load(file);
  if (!packed.answers.has(path)) throw missing(path);
  return packed.answers.get(path) as T;
}

export async function packedBytes(path: string): Promise<ArrayBuffer> {
  const text = await packedValue<string>(path);
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer;
}

function load(file: string): Promise<void> {
  const known = loading.get(file);
  if (known) return known;
  const made = new Promise<void>((resolve, reject) => {
    const script = document.createElement("script");
    script.src = `data/${file}`;
    script.onload = () => resolve();
    script.onerror = () => reject(missing(file));
    document.head.append(script);
  });
  loading.set(file, made);
  return made;
}

function missing(path: string): ApiError {
  return new ApiError(
    404,
    "NotExported",
    "This is a saved copy of the page, and it does not hold this answer.",
    `Expected '${path}' in its data.`,
    "Run 'semlens serve DATABASE' for everything, or 'semlens export' with more.",
  );
}
