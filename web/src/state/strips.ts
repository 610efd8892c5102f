/** Strips of examples: those that a list shows at once come in one response. */
import { bytes } from "../api/client";
import { isStaticExport } from "../api/static-export";
import { parseTensors } from "../api/tensors";
import type { ModelInfo } from "../api/types";
import { pictureUrl } from "./models.svelte";

interface Wanted {
  model: ModelInfo;
  name: string;
  count: number;
  /** Address of the picture alone. */
  address: string;
  resolve: (source: string) => void;
}

const AT_ONCE = 64;
const KEPT = 1500;
const WAIT = 20;
const known = new Map<string, Promise<string>>();
let waiting: Wanted[] = [];

/** Source of an image with the strongest examples of a component; its fragment names them. */
export function stripOf(model: ModelInfo, name: string, count: number): Promise<string> {
  const address = pictureUrl(model, name, "strip.webp", { count });
  if (isStaticExport()) return Promise.resolve(address);
  let found = known.get(address);
  if (!found) {
    found = new Promise((resolve) => {
      if (!waiting.length) setTimeout(load, WAIT);
      waiting.push({ model, name, count, address, resolve });
    });
    known.set(address, found);
    for (const [old, source] of [...known].slice(0, -KEPT)) {
      known.delete(old);
      void source.then(URL.revokeObjectURL);
    }
  }
  return found;
}

function load(): void {
  const all = waiting;
  waiting = [];
  while (all.length) {
    const { model, count } = all[0]!;
    const same = all.filter((one) => one.model === model && one.count === count).slice(0, AT_ONCE);
    for (const one of same) all.splice(all.indexOf(one), 1);
    void loadTogether(model, count, same);
  }
}

async function loadTogether(model: ModelInfo, count: number, wanted: Wanted[]): Promise<void> {
  const params = { of: wanted.map((one) => one.name), count, v: model.fingerprint.slice(0, 12) };
  const tensors = await bytes(`models/${model.number}/strips`, { params }).then(parseTensors, () => null);
  for (const { name, address, resolve } of wanted) {
    const picture = tensors?.has(name) && new Blob([tensors.get(name, "U8") as BlobPart], { type: "image/webp" });
    // alone, it says what is wrong
    resolve(picture ? `${URL.createObjectURL(picture)}#${new URL(address, document.baseURI)}` : address);
  }
}
