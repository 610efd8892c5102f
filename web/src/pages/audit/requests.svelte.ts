/**
 * Requests of long jobs by key, kept while the page is open: a view that is opened again sends the
 * same request, and finds the job running or done.
 */
let requests = $state.raw<Readonly<Record<string, unknown>>>({});

export const savedRequests = {
  get: <T>(key: string): T | null => (requests[key] as T | undefined) ?? null,
  set(key: string, request: unknown): void {
    requests = { ...requests, [key]: request };
  },
};
