/**
 * A static export: answers of the server kept as files beside the page.
 *
 * A page that is opened from disk may not fetch files, but it may load scripts. So each file is
 * a script that delivers answers by their path; `data/index.js` (loaded before the page) says
 * which file has which answer.
 */
import { ApiError } from "./errors";
import { answerLocally } from "./local";

/** What `data/index.js` says. */
interface Index {
  /** File of an answer, by its path; several share one. */
  files: Record<string, string>;
  /** Whether whole images are there, too. */
  originals: boolean;
  /** Crops of a strip. */
  strip: number;
  /** Crops of a card. */
  crops: number;
}

declare global {
  interface Window {
    semlensPacked?: Index;
    semlensDeliver?: (answers: Record<string, unknown>) => void;
  }
}

const loading = new Map<string, Promise<void>>();
const packed: Index | null = window.semlensPacked ?? null;
const answers = new Map<string, unknown>();

if (packed) {
  window.semlensDeliver = (some) => {
    for (const [path, answer] of Object.entries(some)) answers.set(path, answer);
  };
}

/** What the export holds, or null on a page that is served. */
export function packedIndex(): Readonly<Index> | null {
  return packed;
}

export function isPacked(): boolean {
  return packed !== null;
}

/** Pictures lie in `data/` under their path, with the query as part of the name. */
export function packedUrl(path: string): string {
  // a percent sign would be read as the beginning of a code
  const [name = "", query = ""] = path.replaceAll("%", "~").split("?", 2);
  const shown = query
    .split("&")
    .filter((part) => part && !part.startsWith("v="))
    .join("&");
  const dot = name.lastIndexOf(".");
  return `data/${name.slice(0, dot)}${shown ? `-${shown.replace(/[=&]/g, "-")}` : ""}${name.slice(dot)}`;
}

export async function packedValue<T>(path: string): Promise<T> {
  if (packed?.files[path] === undefined) {
    const made = await answerLocally(path, recorded);
    if (made === undefined) throw missing(path);
    return made as T;
  }
  return recorded(path);
}

async function recorded<T>(path: string): Promise<T> {
  const file = packed?.files[path];
  if (file === undefined) throw missing(path);
  if (!answers.has(path)) await load(file);
  if (!answers.has(path)) throw missing(path);
  return answers.get(path) as T;
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
