/** A response of the server that is requested again whenever its inputs change. */
import { untrack } from "svelte";

import type { JobStatus } from "./client";
import { ApiError } from "./errors";

type Job<T> = (signal: AbortSignal, progress: (status: JobStatus) => void) => Promise<T>;

export interface Resource<T> {
  /** The response, or null; never that of an earlier request with other inputs. */
  readonly value: T | null;
  readonly error: ApiError | null;
  /** Whether the request has been running for 200 ms without a result. */
  readonly waiting: boolean;
  /** Whether a request is running. */
  readonly busy: boolean;
  readonly progress: JobStatus | null;
  again(): void;
}

/**
 * Send a request when a component is created, and again whenever the state it reads changes.
 *
 * @param make reads the inputs and returns the request; null sends nothing.
 * @param keep whether the last response stays visible until the next one arrives (sliders).
 */
export function resource<T>(make: () => Job<T> | null, { keep = false } = {}): Resource<T> {
  let value = $state.raw<T | null>(null);
  let error = $state.raw<ApiError | null>(null);
  let waiting = $state(false);
  let busy = $state(false);
  let progress = $state.raw<JobStatus | null>(null);
  let round = $state(0);

  $effect(() => {
    void round;
    const job = make();
    const stop = new AbortController();
    if (!keep || job === null) value = null;
    error = null;
    progress = null;
    waiting = false;
    busy = job !== null;
    if (job === null) return;
    const timer = setTimeout(() => (waiting = true), 200);
    job(stop.signal, (status) => !stop.signal.aborted && (progress = status))
      .then((response) => !stop.signal.aborted && (value = response))
      .catch((fault: unknown) => {
        if (stop.signal.aborted) return;
        value = null;
        error = asError(fault);
      })
      .finally(() => {
        clearTimeout(timer);
        if (stop.signal.aborted) return;
        waiting = busy = false;
        progress = null;
      });
    return () => {
      clearTimeout(timer);
      stop.abort();
    };
  });

  return {
    get value() {
      return value;
    },
    get error() {
      return error;
    },
    get waiting() {
      return waiting;
    },
    get busy() {
      return busy;
    },
    get progress() {
      return progress;
    },
    // an effect that asks again must not depend on it: it would ask for ever
    again: () => untrack(() => (round += 1)),
  };
}

/** Any error as an `ApiError`; a bug in the page is shown too. */
export function asError(fault: unknown): ApiError {
  if (fault instanceof ApiError) return fault;
  console.error(fault);
  return new ApiError(
    0,
    "PageError",
    `The page failed: ${fault instanceof Error ? fault.message : String(fault)}.`,
    "This is a bug in semlens.",
    "Reload the page, and please report this.",
  );
}
