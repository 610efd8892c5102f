/**
 * `data-settled` on the document element, for scripts that drive the page: no request is running,
 * the images in view are decoded, and nothing has changed for a moment.
 */

/** Rest in ms; longer than lists wait before they request the rows scrolled to. */
const REST = 100;
let running = 0;
let timer: number | undefined;

/** Count a request as running until it ends. */
export async function counted<T>(request: Promise<T>): Promise<T> {
  running += 1;
  restart();
  try {
    return await request;
  } finally {
    running -= 1;
    restart();
  }
}

/** Set the attribute whenever the page is settled, and remove it as soon as it changes. */
export function announceSettled(page: HTMLElement): void {
  new MutationObserver(restart).observe(page, {
    subtree: true,
    childList: true,
    attributeFilter: ["src"],
  });
  restart();
}

function restart(): void {
  delete document.documentElement.dataset.settled;
  clearTimeout(timer);
  timer = window.setTimeout(() => void check(), REST);
}

async function check(): Promise<void> {
  const started = timer;
  const images = [...document.images].filter(inView);
  if (running === 0 && images.every((image) => image.complete)) {
    await Promise.allSettled(images.map((image) => image.decode()));
    await new Promise(requestAnimationFrame); // what the last response changed is drawn
    if (timer === started) document.documentElement.dataset.settled = "";
  } else restart();
}

/** Whether an image is loaded by now: lazy ones are only where they can be seen. */
function inView(image: HTMLImageElement): boolean {
  if (image.loading !== "lazy") return true;
  const { left, right, top, bottom } = image.getBoundingClientRect();
  return document.elementsFromPoint((left + right) / 2, (top + bottom) / 2).includes(image);
}
