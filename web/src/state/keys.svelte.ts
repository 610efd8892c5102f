/** Keys of the page: single ones, and two in a row such as `g m`. */
export interface Key {
  help: string;
  run: () => void;
}

let sets = $state.raw<readonly Record<string, Key>[]>([]);
let first = "";
let timer = 0;

/** All keys that work now, the latest first, for the help. */
export function keysNow(): [string, Key][] {
  const found = new Map<string, Key>();
  for (const set of sets.toReversed())
    for (const [key, value] of Object.entries(set)) if (!found.has(key)) found.set(key, value);
  return [...found];
}

/** Bind keys while a component lives: `$effect(() => bind({ j: { help, run } }))`. */
export function bind(keys: Record<string, Key>): () => void {
  // a microtask later, so that binding in an effect does not depend on what is bound
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
  const known = new Map(keysNow());
  const pair = `${first} ${event.key}`;
  const key = first && known.has(pair) ? pair : event.key;
  const starts = [...known.keys()].some((name) => name.startsWith(`${event.key} `));
  clearTimeout(timer);
  first = "";
  const found = known.get(key);
  if (found) {
    event.preventDefault();
    found.run();
  } else if (starts) {
    first = event.key;
    timer = window.setTimeout(() => (first = ""), 1200);
  }
});
