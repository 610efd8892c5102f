/** The visible map as an image at twice its size, with title and legend. */
import { css } from "./colour";
import { figure } from "./colour-options";
import type { Crop } from "./crops";
import { drawOverlay } from "./overlay";
import type { Legend, Palette } from "./paint";
import type { Plot } from "./plot";
import { fill, paintPoints } from "./points-2d";
import { colourOf, diameterOf, type Style } from "./points";

const RATIO = 2;
const HEAD = 44;
const FOOT = 64;
const EDGE = 20;
const FONT = "system-ui, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif";

export interface MapImage {
  plot: Plot;
  style: Style;
  palette: Palette;
  /** Null where the picture explains itself. */
  legend: Legend | null;
  title: string;
  below: string;
}

export async function renderMap(picture: MapImage): Promise<Blob> {
  const { plot, style, palette, legend } = picture;
  const { data, view, crops, names } = plot;
  const width = Math.round(view.width);
  const height = Math.round(view.height);
  const canvas = document.createElement("canvas");
  canvas.width = RATIO * width;
  canvas.height = RATIO * (height + HEAD + FOOT);
  const context = canvas.getContext("2d");
  if (!context) throw new Error("no canvas");
  context.fillStyle = css(palette.paper);
  context.fillRect(0, 0, canvas.width, canvas.height);
  const diameter = diameterOf(data.count, view);
  const points = new ImageData(RATIO * width, RATIO * height);
  fill(points, palette.paper);
  paintPoints(points, data.x, data.y, style, view, diameter, RATIO);
  context.putImageData(points, 0, RATIO * HEAD);
  context.scale(RATIO, RATIO);
  context.translate(0, HEAD);
  context.save();
  context.beginPath();
  context.rect(0, 0, width, height);
  context.clip();
  const marks = { ...plot.marks, hovered: null };
  drawOverlay(context, view, data, marks, names, crops, diameter, palette);
  const pictures = picturesOf(plot);
  for (const crop of crops) drawCrop(context, crop, pictures.get(crop.point), style);
  context.restore();
  context.translate(0, -HEAD);
  drawText(context, picture.title, EDGE, HEAD / 2 + 4, `650 15px ${FONT}`, palette.ink);
  context.translate(EDGE, HEAD + height + 14);
  if (legend) drawLegend(context, legend, palette, width - 2 * EDGE);
  drawText(context, picture.below, 0, 40, `11px ${FONT}`, palette.soft);
  return new Promise((resolve, reject) =>
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("No image"))), "image/png"),
  );
}

/** The picture of each crop that has arrived, by point. */
function picturesOf(plot: Plot): Map<number, HTMLImageElement> {
  const crops = plot.host.parentElement?.querySelectorAll<HTMLElement>("[data-point]") ?? [];
  return new Map(
    [...crops].flatMap((crop) => {
      const image = crop.querySelector("img");
      return image?.complete && image.naturalWidth ? [[Number(crop.dataset.point), image]] : [];
    }),
  );
}

function drawCrop(
  context: CanvasRenderingContext2D,
  { point, x, y, size }: Crop,
  image: HTMLImageElement | undefined,
  style: Style,
): void {
  if (!image) return;
  const [left, top] = [x - size / 2, y - size / 2];
  // an export has strips: the first crop is on the left
  const side = image.naturalHeight;
  context.drawImage(image, 0, 0, side, side, left, top, size, size);
  context.lineWidth = 2;
  context.strokeStyle = colourOf(style, point);
  context.strokeRect(left + 1, top + 1, size - 2, size - 2);
}

function drawText(
  context: CanvasRenderingContext2D,
  text: string,
  x: number,
  y: number,
  font: string,
  colour: readonly [number, number, number],
): number {
  context.font = font;
  context.textAlign = "left";
  context.textBaseline = "middle";
  context.fillStyle = css(colour);
  context.fillText(text, x, y);
  return context.measureText(text).width;
}

function drawLegend(
  context: CanvasRenderingContext2D,
  legend: Legend,
  palette: Palette,
  width: number,
): void {
  const font = `12px ${FONT}`;
  let x = drawText(context, legend.title, 0, 8, `620 12px ${FONT}`, palette.ink) + 14;
  if (legend.kind === "values") {
    const low = `${legend.below ? "≤ " : ""}${figure(legend.low)}`;
    x += drawText(context, low, x, 8, font, palette.soft) + 6;
    const across = 180;
    const shade = context.createLinearGradient(x, 0, x + across, 0);
    legend.stops.forEach((stop, i) => shade.addColorStop(i / (legend.stops.length - 1), stop));
    context.fillStyle = shade;
    context.fillRect(x, 3, across, 10);
    const high = `${legend.above ? "≥ " : ""}${figure(legend.high)}`;
    drawText(context, high, x + across + 6, 8, font, palette.soft);
    return;
  }
  const others = legend.others ? [{ name: `${legend.others} more`, colour: legend.grey }] : [];
  for (const entry of [...legend.entries, ...others]) {
    context.font = font;
    const name = entry.name.length > 26 ? `${entry.name.slice(0, 25)}…` : entry.name;
    if (x + 14 + context.measureText(name).width > width) break;
    context.fillStyle = entry.colour;
    context.beginPath();
    context.arc(x + 5, 8, 5, 0, 2 * Math.PI);
    context.fill();
    x += 14 + drawText(context, name, x + 14, 8, font, palette.ink) + 14;
  }
}
