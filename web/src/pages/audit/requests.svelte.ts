/**
 * What was asked of long work, by its address: a page that is opened again asks the same, and
 * finds it under way or done.
 */
let all = $state.raw<Readonly<Record<string, unknown>>>({});

export const asked = {
  get: <T>(path: string): T | null => (all[path] as T | undefined) ?? null,
  set(path: string, what: unknown): void {
    all = { ...all, [path]: what };
  },
};
