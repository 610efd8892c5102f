/**
 * Requests to the server, or to the files of a static export.
 *
 * A 202 means that the server is at work: the same request is made again until the answer is
 * there, and `progress` is told. Aborted requests end with an `AbortError` that nobody shows.
 */
import { ApiError } from "./errors";
import { packedBytes, packedUrl, packedValue, isPacked } from "./packed";

export interface Told {
  what: string;
  done: number;
  total: number;
  seconds: number;
}

type Param = string | number | boolean | null | undefined;
export type Params = Record<string, Param | readonly (string | number)[]>;

export interface Options {
  params?: Params;
  signal?: AbortSignal;
  progress?: (told: Told) => void;
}

/** A path with its query, parameters in the order of their names. */
export function pathOf(path: string, params: Params = {}): string {
  const query = new URLSearchParams();
  for (const [key, value] of Object.entries(params).sort(([a], [b]) => (a < b ? -1 : 1))) {
    if (value === null || value === undefined) continue;
    for (const one of Array.isArray(value) ? value : [value]) query.append(key, String(one));
  }
  const text = query.toString();
  return text ? `${path}?${text}` : path;
}

/** Where a picture or a file to download is. */
export function url(path: string, params: Params = {}): string {
  return isPacked() ? packedUrl(pathOf(path, params)) : `api/v1/${pathOf(path, params)}`;
}

export async function get<T>(path: string, options: Options = {}): Promise<T> {
  const whole = pathOf(path, options.params);
  if (isPacked()) return packedValue<T>(whole);
  return (await (await request("GET", whole, undefined, options)).json()) as T;
}

export async function bytes(path: string, options: Options = {}): Promise<ArrayBuffer> {
  const whole = pathOf(path, options.params);
  if (isPacked()) return packedBytes(whole);
  return (await request("GET", whole, undefined, options)).arrayBuffer();
}

/** Send JSON, or the bytes of a file as they are. */
export async function send<T>(
  method: "POST" | "PUT" | "DELETE",
  path: string,
  body?: unknown,
  options: Options = {},
): Promise<T> {
  if (isPacked()) throw readOnly();
  const answer = await request(method, pathOf(path, options.params), body, options);
  return (answer.status === 204 ? undefined : await answer.json()) as T;
}

/** Send, and return what comes back as a file. */
export async function sendForFile(
  path: string,
  body: unknown,
  options: Options = {},
): Promise<Blob> {
  if (isPacked()) throw readOnly();
  return (await request("POST", pathOf(path, options.params), body, options)).blob();
}

function readOnly(): ApiError {
  return new ApiError(
    405,
    "ReadOnly",
    "This is a saved copy of the page.",
    "Expected a server for what has to be computed.",
    "Run: semlens serve DATABASE",
  );
}

async function request(
  method: string,
  path: string,
  body: unknown,
  { signal, progress }: Options,
): Promise<Response> {
  const given: RequestInit = { method, signal: signal ?? null, credentials: "same-origin" };
  if (body instanceof Blob) given.body = body;
  else if (body !== undefined) {
    given.body = JSON.stringify(body);
    given.headers = { "Content-Type": "application/json" };
  }
  for (let wait = 150; ; wait = Math.min(wait * 1.5, 1000)) {
    const answer = await reach(`api/v1/${path}`, given);
    if (answer.status === 202) {
      progress?.((await answer.json()) as Told);
      await pause(wait, signal);
    } else if (answer.ok) return answer;
    else throw await failure(answer);
  }
}

async function reach(address: string, given: RequestInit): Promise<Response> {
  try {
    return await fetch(address, given);
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new ApiError(
      0,
      "Offline",
      "The server does not answer.",
      "Expected 'semlens serve' to be running.",
      "Start it again; this page goes on from where it is.",
    );
  }
}

async function failure(answer: Response): Promise<ApiError> {
  const found = (await answer.json().catch(() => ({}))) as Record<string, unknown>;
  const text = (key: string, other: string) => (typeof found[key] === "string" ? found[key] : other);
  return new ApiError(
    answer.status,
    text("kind", "HttpError"),
    text("value", `The server answered ${answer.status} ${answer.statusText}.`),
    text("expected", "Expected an answer."),
    text("remedy", "Look at what the server prints."),
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
