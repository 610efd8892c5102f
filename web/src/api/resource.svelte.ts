/** One answer of the server that follows what it was asked with. */
import type { Told } from "./client";
import { ApiError } from "./errors";

type Job<T> = (signal: AbortSignal, progress: (told: Told) => void) => Promise<T>;

export interface Resource<T> {
  /** The answer, or null: never that of another question. */
  readonly value: T | null;
  readonly error: ApiError | null;
  /** Whether there has been nothing to show for 200 ms. */
  readonly waiting: boolean;
  /** Whether a request is under way. */
  readonly busy: boolean;
  readonly progress: Told | null;
  again(): void;
}

/**
 * Ask when a component starts, and again whenever what `make` reads has changed.
 *
 * @param make reads what the request depends on and returns the request; null asks nothing.
 * @param keep whether the last answer stays until the next is there (sliders), instead of nothing.
 */
export function resource<T>(make: () => Job<T> | null, { keep = false } = {}): Resource<T> {
  let value = $state.raw<T | null>(null);
  let error = $state.raw<ApiError | null>(null);
  let waiting = $state(false);
  let busy = $state(false);
  let progress = $state.raw<Told | null>(null);
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
    job(stop.signal, (told) => !stop.signal.aborted && (progress = told))
      .then((found) => !stop.signal.aborted && (value = found))
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
    again: () => (round += 1),
  };
}

/** Any fault as an error that can be shown; a fault of ours is not hidden. */
export function asError(fault: unknown): ApiError {
  if (fault instanceof ApiError) return fault;
  console.error(fault);
  return new ApiError(
    0,
    "PageError",
    `The page failed: ${fault instanceof Error ? fault.message : String(fault)}.`,
    "Expected it to work.",
    "Reload it, and please report this.",
  );
}
