// What the widgets share: elements, and crops that are asked for when they are needed.

/** Make an element with properties and children; texts are set as text, never as HTML. */
function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** Crops by row: asked for once per row and count, kept while the widget is shown. */
class Crops {
  constructor(model) {
    this.model = model;
    this.answers = new Map(); // "row/count" -> {urls} or {error}
    this.waiting = new Map(); // "row/count" -> callbacks
    this.receive = (content, buffers) => this.onMessage(content, buffers);
    model.on("msg:custom", this.receive);
  }

  /** Return the answer, or ask for it and call `then` once it is there. */
  get(row, count, then) {
    const key = `${row}/${count}`;
    const known = this.answers.get(key);
    if (known) return known;
    const callbacks = this.waiting.get(key);
    if (callbacks) callbacks.push(then);
    else {
      this.waiting.set(key, [then]);
      this.model.send({ type: "crops", row, count });
    }
    return undefined;
  }

  onMessage(content, buffers) {
    if (content?.type !== "crops") return;
    const key = `${content.row}/${content.count}`;
    const urls = (buffers ?? []).map((part) => URL.createObjectURL(new Blob([part], { type: "image/webp" })));
    // another view of the same widget may have asked: keep one answer
    if (this.answers.has(key)) return urls.forEach((url) => URL.revokeObjectURL(url));
    const answer = { urls, error: content.error };
    this.answers.set(key, answer);
    const callbacks = this.waiting.get(key) ?? [];
    this.waiting.delete(key);
    for (const callback of callbacks) callback(answer);
  }

  dispose() {
    this.model.off("msg:custom", this.receive);
    for (const { urls } of this.answers.values()) urls.forEach((url) => URL.revokeObjectURL(url));
    this.answers.clear();
    this.waiting.clear();
  }
}

/** Fill an element with the crops of a row, or with what is wrong with them. */
function showCrops(holder, crops, row, count, alt) {
  const fill = ({ urls, error }) => {
    if (holder.dataset.row !== String(row)) return; // it shows another component by now
    if (error) holder.replaceChildren(element("span", { className: "soft", textContent: error }));
    else if (!urls.length) holder.replaceChildren(element("span", { className: "soft", textContent: "no examples" }));
    else holder.replaceChildren(...urls.map((src, i) => element("img", { src, alt: `${alt}, example ${i + 1}` })));
  };
  holder.dataset.row = String(row);
  const known = crops.get(row, count, fill);
  if (known) fill(known);
  else holder.replaceChildren(element("span", { className: "soft", textContent: "loading crops" }));
}
