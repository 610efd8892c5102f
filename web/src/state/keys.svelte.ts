/** Keyboard shortcuts: single keys, and sequences of two such as `g m`. */
export interface Shortcut {
  help: string;
  run: () => void;
}

let sets = $state.raw<readonly Record<string, Shortcut>[]>([]);
let first = "";
let timer = 0;

/** All active shortcuts, most recently bound first. */
export function keysNow(): [string, Shortcut][] {
  const shortcuts = new Map<string, Shortcut>();
  for (const set of sets.toReversed())
    for (const [key, value] of Object.entries(set)) if (!shortcuts.has(key)) shortcuts.set(key, value);
  return [...shortcuts];
}

/** Bind shortcuts while a component exists: `$effect(() => bind({ j: { help, run } }))`. */
export function bind(keys: Record<string, Shortcut>): () => void {
  // in a microtask, so that an effect that binds does not depend on the bound shortcuts
  queueMicrotask(() => (sets = [...sets, keys]));
  return () => queueMicrotask(() => (sets = sets.filter((set) => set !== keys)));
}

function typing(target: EventTarget | null): boolean {
  return (
    target instanceof HTMLElement &&
    (target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName))
  );
}

addEventListener("keydown", (event) => {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
  if (typing(event.target) && event.key !== "Escape") return;
  const shortcuts = new Map(keysNow());
  const pair = `${first} ${event.key}`;
  const key = first && shortcuts.has(pair) ? pair : event.key;
  const starts = [...shortcuts.keys()].some((name) => name.startsWith(`${event.key} `));
  clearTimeout(timer);
  first = "";
  const shortcut = shortcuts.get(key);
  if (shortcut) {
    event.preventDefault();
    shortcut.run();
  } else if (starts) {
    first = event.key;
    timer = window.setTimeout(() => (first = ""), 1200);
  }
});
