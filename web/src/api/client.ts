/**
 * Requests to the server, or to the files of a static export.
 *
 * A 202 means that a job is running: the request is repeated until the response is ready, and
 * `progress` is called with its status. Aborted requests end with an `AbortError` that is not shown.
 */
import { ApiError } from "./errors";
import { counted } from "./settled";
import type { JobStatus } from "./types";
import { exportedBytes, exportUrl, exportedJson, isStaticExport } from "./static-export";

export type { JobStatus };

type Param = string | number | boolean | null | undefined;
export type Params = Record<string, Param | readonly (string | number)[]>;

export interface Options {
  params?: Params;
  signal?: AbortSignal;
  progress?: (status: JobStatus) => void;
}

/** A path with its query, parameters sorted by name. */
export function pathOf(path: string, params: Params = {}): string {
  const query = new URLSearchParams();
  for (const [key, value] of Object.entries(params).sort(([a], [b]) => (a < b ? -1 : 1))) {
    if (value === null || value === undefined) continue;
    for (const item of Array.isArray(value) ? value : [value]) query.append(key, String(item));
  }
  const text = query.toString();
  return text ? `${path}?${text}` : path;
}

/** Address of an image or a download. */
export function url(path: string, params: Params = {}): string {
  return isStaticExport() ? exportUrl(pathOf(path, params)) : `api/v1/${pathOf(path, params)}`;
}

export async function get<T>(path: string, options: Options = {}): Promise<T> {
  const address = pathOf(path, options.params);
  if (isStaticExport()) return counted(exportedJson<T>(address));
  return request("GET", address, undefined, options, json<T>);
}

export async function bytes(path: string, options: Options = {}): Promise<ArrayBuffer> {
  const address = pathOf(path, options.params);
  if (isStaticExport()) return counted(exportedBytes(address));
  return request("GET", address, undefined, options, (response) => response.arrayBuffer());
}

/** Send JSON or a file. */
export async function send<T>(
  method: "POST" | "PUT" | "DELETE",
  path: string,
  body?: unknown,
  options: Options = {},
): Promise<T> {
  if (isStaticExport()) throw readOnly();
  return request(method, pathOf(path, options.params), body, options, async (response) =>
    response.status === 204 ? (undefined as T) : json<T>(response),
  );
}

/** Send JSON and return the response as a file. */
export async function sendForFile(
  path: string,
  body: unknown,
  options: Options = {},
): Promise<Blob> {
  if (isStaticExport()) throw readOnly();
  return request("POST", pathOf(path, options.params), body, options, (response) => response.blob());
}

function readOnly(): ApiError {
  return new ApiError(
    405,
    "ReadOnly",
    "This is a read-only copy of the page.",
    "Expected a running server, which computes this.",
    "Run: semlens serve DATABASE",
  );
}

async function json<T>(response: Response): Promise<T> {
  return (await response.json()) as T;
}

/** Send a request, and read its response as soon as that is ready. */
function request<T>(
  method: string,
  path: string,
  body: unknown,
  options: Options,
  read: (response: Response) => Promise<T>,
): Promise<T> {
  return counted(respond(method, path, body, options).then(read));
}

async function respond(
  method: string,
  path: string,
  body: unknown,
  { signal, progress }: Options,
): Promise<Response> {
  const init: RequestInit = { method, signal: signal ?? null, credentials: "same-origin" };
  if (body instanceof Blob) init.body = body;
  else if (body !== undefined) {
    init.body = JSON.stringify(body);
    init.headers = { "Content-Type": "application/json" };
  }
  for (let wait = 150; ; wait = Math.min(wait * 1.5, 1000)) {
    const response = await fetchResponse(`api/v1/${path}`, init);
    if (response.status === 202) {
      progress?.((await response.json()) as JobStatus);
      await pause(wait, signal);
    } else if (response.ok) return response;
    else throw await errorOf(response);
  }
}

async function fetchResponse(address: string, init: RequestInit): Promise<Response> {
  try {
    return await fetch(address, init);
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new ApiError(
      0,
      "Offline",
      "The server cannot be reached.",
      "Expected 'semlens serve' to be running.",
      "Start the server again; this page then continues where it is.",
    );
  }
}

async function errorOf(response: Response): Promise<ApiError> {
  const body = (await response.json().catch(() => ({}))) as Record<string, unknown>;
  const text = (key: string, fallback: string) => (typeof body[key] === "string" ? body[key] : fallback);
  return new ApiError(
    response.status,
    text("kind", "HttpError"),
    text("value", `The server returned ${response.status} ${response.statusText}.`),
    text("expected", "Expected a successful response."),
    text("remedy", "Check the output of the server."),
  );
}

function pause(time: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, time);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(new DOMException("aborted", "AbortError"));
    });
  });
}
