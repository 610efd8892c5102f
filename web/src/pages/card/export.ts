/** Downloads of a component's examples, created in the page: an image with a legend, and a table. */
import type { ComponentCard, ModelInfo } from "../../api/types";
import { csv, download } from "../../parts/csv";
import { pictureUrl } from "../../state/models.svelte";
import { token } from "../../state/theme.svelte";
import { short } from "./format";

const CELL = 112;
const GAP = 8;
const EDGE = 20;
const COLUMNS = 6;
const SCALE = 2;

/** Download the examples as PNG at twice the screen resolution. */
export async function saveExamples(
  model: ModelInfo,
  card: ComponentCard,
  label: string | null,
): Promise<void> {
  const view = "crop";
  const pictures = await Promise.all(
    card.examples.map((example) =>
      loadImage(pictureUrl(model, card.component, `crops/${example.rank}.webp`, { view })),
    ),
  );
  const sheet = drawSheet(model, card, label, pictures);
  const blob = await new Promise<Blob | null>((resolve) => sheet.toBlob(resolve, "image/png"));
  if (!blob) throw new Error("The image is too large");
  download(blob, `${fileName(model, card)}.png`);
}

function drawSheet(
  model: ModelInfo,
  card: ComponentCard,
  label: string | null,
  pictures: readonly (HTMLImageElement | null)[],
): HTMLCanvasElement {
  const lines = Math.ceil(pictures.length / COLUMNS);
  const columns = Math.min(COLUMNS, Math.max(pictures.length, 4));
  const width = 2 * EDGE + columns * (CELL + GAP) - GAP;
  const top = EDGE + 48;
  const height = top + lines * (CELL + 18 + GAP) + 22 + EDGE;
  const sheet = document.createElement("canvas");
  sheet.width = width * SCALE;
  sheet.height = height * SCALE;
  const pen = sheet.getContext("2d");
  if (!pen) throw new Error("No canvas available");
  pen.scale(SCALE, SCALE);
  pen.fillStyle = token("paper");
  pen.fillRect(0, 0, width, height);
  const write = (text: string, x: number, y: number, font: string, colour: string, most: number) => {
    pen.font = `${font} ${getComputedStyle(document.body).fontFamily}`;
    pen.fillStyle = token(colour);
    pen.fillText(truncated(pen, text, most), x, y);
  };
  const title = label ? `${card.component}   ${label}` : card.component;
  write(title, EDGE, EDGE + 14, "600 17px", "ink", width - 2 * EDGE);
  const who = `${model.name} (${model.model}), ${model.data}`;
  write(who, EDGE, EDGE + 34, "12px", "soft", width - 2 * EDGE);
  pictures.forEach((picture, index) => {
    const x = EDGE + (index % COLUMNS) * (CELL + GAP);
    const y = top + Math.floor(index / COLUMNS) * (CELL + 18 + GAP);
    pen.fillStyle = token("sunken");
    pen.fillRect(x, y, CELL, CELL);
    if (picture) drawFitted(pen, picture, x, y);
    const example = card.examples[index]!;
    write(`${index + 1}   ${short(example.activation)}`, x, y + CELL + 13, "11px", "soft", CELL);
  });
  const ranked = card.rank === "relevance" ? "relevance" : `${card.readout} activation`;
  const legend = `${card.examples.length} strongest examples: rank and ${ranked}`;
  write(legend, EDGE, height - EDGE, "12px", "soft", width - 2 * EDGE);
  return sheet;
}

/** Draw an image scaled to a cell, without cropping. */
function drawFitted(pen: CanvasRenderingContext2D, image: HTMLImageElement, x: number, y: number): void {
  const scale = CELL / Math.max(image.naturalWidth, image.naturalHeight);
  const [w, h] = [image.naturalWidth * scale, image.naturalHeight * scale];
  pen.imageSmoothingQuality = "high";
  pen.drawImage(image, x + (CELL - w) / 2, y + (CELL - h) / 2, w, h);
}

function truncated(pen: CanvasRenderingContext2D, text: string, most: number): string {
  if (pen.measureText(text).width <= most) return text;
  let end = text.length;
  while (end > 0 && pen.measureText(`${text.slice(0, end)}…`).width > most) end -= 1;
  return `${text.slice(0, end)}…`;
}

/** Load an image, usually from the browser's cache; null if that fails. */
async function loadImage(source: string): Promise<HTMLImageElement | null> {
  const picture = new Image();
  picture.src = source;
  try {
    await picture.decode();
    return picture;
  } catch {
    return null;
  }
}

/** Download the examples as CSV. */
export function saveTable(card: ComponentCard): void {
  const head = ["component", "rank", "sample", "path", "class", card.rank, "left", "top", "right", "bottom"];
  const lines = card.examples.map(({ rank, sample, path, class_name, activation, box }) => [
    card.component,
    rank + 1,
    sample,
    path,
    class_name,
    activation,
    box.left,
    box.top,
    box.right,
    box.bottom,
  ]);
  download(csv(head, lines), `${card.component.replace(/[^\w-]+/g, "-")}.csv`);
}

function fileName(model: ModelInfo, card: ComponentCard): string {
  return `${model.name}-${card.component}`.replace(/[^\w-]+/g, "-");
}
