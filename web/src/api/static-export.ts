/**
 * Static exports: recorded responses of the server, stored as files beside the page.
 *
 * A page opened from disk cannot fetch files, but it can load scripts. Each file is therefore a
 * script that delivers responses by path; `data/index.js`, loaded before the page, maps paths to
 * files.
 */
import { ApiError } from "./errors";
import { computeResponse } from "./export-queries";

/** Content of `data/index.js`. */
interface Index {
  /** File of each response by path. */
  files: Record<string, string>;
  /** Whether whole images are included. */
  originals: boolean;
  /** Crops in a strip. */
  strip: number;
  /** Crops on a card. */
  crops: number;
}

declare global {
  interface Window {
    semlensExport?: Index;
    semlensDeliver?: (responses: Record<string, unknown>) => void;
  }
}

const loading = new Map<string, Promise<void>>();
const exported: Index | null = window.semlensExport ?? null;
const responses = new Map<string, unknown>();

if (exported) {
  window.semlensDeliver = (delivered) => {
    for (const [path, response] of Object.entries(delivered)) responses.set(path, response);
  };
}

/** Index of the export; null if the page is served. */
export function exportIndex(): Readonly<Index> | null {
  return exported;
}

export function isStaticExport(): boolean {
  return exported !== null;
}

/** Images are in `data/` under their path, with the query as part of the name. */
export function exportUrl(path: string): string {
  // browsers would decode a percent sign
  const [name = "", query = ""] = path.replaceAll("%", "~").split("?", 2);
  const suffix = query
    .split("&")
    .filter((part) => part && !part.startsWith("v="))
    .join("&");
  const dot = name.lastIndexOf(".");
  return `data/${name.slice(0, dot)}${suffix ? `-${suffix.replace(/[=&]/g, "-")}` : ""}${name.slice(dot)}`;
}

export async function exportedJson<T>(path: string): Promise<T> {
  if (exported?.files[path] === undefined) {
    const response = await computeResponse(path, recorded);
    if (response === undefined) throw missing(path);
    return response as T;
  }
  return recorded(path);
}

async function recorded<T>(path: string): Promise<T> {
  const file = exported?.files[path];
  if (file === undefined) throw missing(path);
  if (!responses.has(path)) await load(file);
  if (!responses.has(path)) throw missing(path);
  return responses.get(path) as T;
}

export async function exportedBytes(path: string): Promise<ArrayBuffer> {
  const text = await exportedJson<string>(path);
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer;
}

function load(file: string): Promise<void> {
  const running = loading.get(file);
  if (running) return running;
  const promise = new Promise<void>((resolve, reject) => {
    const script = document.createElement("script");
    script.src = `data/${file}`;
    script.onload = () => resolve();
    script.onerror = () => reject(missing(file));
    document.head.append(script);
  });
  loading.set(file, promise);
  return promise;
}

function missing(path: string): ApiError {
  return new ApiError(
    404,
    "NotExported",
    "This read-only copy of the page does not contain this data.",
    `Expected '${path}' in the export.`,
    "Ask for an export with more, or run the server: semlens serve DATABASE",
  );
}
