/** Style of each point and the legend, from the colouring. */
import { css, mix, ofRamp, ramp, type Colour } from "./colour";
import { NORMAL_SIZE, type Style } from "./points";

/** The colours of the theme that a map needs. */
export interface Palette {
  paper: Colour;
  ink: Colour;
  soft: Colour;
  grey: Colour;
  accent: Colour;
  series: readonly Colour[];
  heat: readonly Colour[];
  signed: readonly Colour[];
}

/** Each point is in a group (-1 for none); only the first groups have a hue of their own. */
export interface Groups {
  kind: "groups";
  title: string;
  of: ArrayLike<number>;
  names: readonly string[];
  counts: readonly number[];
  /** Whether `names` are ordered, as layers are. */
  ordered: boolean;
  /** Colours of the groups; by default those of a series. */
  colours?: readonly Colour[];
}

/** Each point has a value, or none (NaN). */
export interface Values {
  kind: "values";
  title: string;
  of: Float32Array;
  low: number;
  high: number;
  /** Whether zero is in the middle, and far values are larger points. */
  signed: boolean;
}

export type Paint = Groups | Values;

export type Legend =
  | {
      kind: "groups";
      title: string;
      entries: { name: string; count: number; colour: string }[];
      /** Number of grey groups and points. */
      others: number;
      otherCount: number;
      grey: string;
    }
  | {
      kind: "values";
      title: string;
      stops: string[];
      low: number;
      high: number;
      middle: number;
      /** Whether some values lie beyond the ends. */
      below: boolean;
      above: boolean;
    };

const SHADES = 9;

/** A colour for each group: hues while there are enough, a ramp for many ordered ones, then grey. */
export function groupColours(paint: Groups, palette: Palette): Colour[] {
  const count = paint.names.length;
  const hues = palette.series;
  if (paint.colours) return [...paint.colours];
  if (paint.ordered && count > hues.length) {
    const table = ramp(palette.heat);
    return paint.names.map((_, i) => ofRamp(table, i / (count - 1)));
  }
  return paint.names.map((_, i) => hues[i] ?? palette.grey);
}

export function legendOf(paint: Paint, palette: Palette): Legend {
  if (paint.kind === "values") {
    const table = ramp(paint.signed ? palette.signed : palette.heat);
    const stops = Array.from({ length: SHADES }, (_, i) => css(ofRamp(table, i / (SHADES - 1))));
    const { title, low, high } = paint;
    const [below, above] = [paint.of.some((v) => v < low), paint.of.some((v) => v > high)];
    return { kind: "values", title, stops, low, high, middle: (low + high) / 2, below, above };
  }
  const colours = groupColours(paint, palette);
  const every = paint.ordered || paint.colours;
  const shown = every ? paint.names.length : Math.min(colours.length, palette.series.length);
  const total = paint.counts.reduce((sum, count) => sum + count, 0);
  const entries = paint.names.slice(0, shown).map((name, i) => ({
    name,
    count: paint.counts[i] ?? 0,
    colour: css(colours[i]!),
  }));
  const otherCount = Math.max(
    paint.of.length - entries.reduce((sum, entry) => sum + entry.count, 0),
    total - entries.reduce((sum, entry) => sum + entry.count, 0),
  );
  return {
    kind: "groups",
    title: paint.title,
    entries,
    others: paint.names.length - shown,
    otherCount,
    grey: css(palette.grey),
  };
}

/**
 * Style and drawing order of the points: points in focus over others, strong values over weak
 * ones, and hues over grey.
 *
 * @param focus 1 for each point that is in focus, or null when all are.
 */
export function styleOf(
  count: number,
  paint: Paint,
  palette: Palette,
  focus: Uint8Array | null,
): Style {
  const colour = new Uint8Array(4 * count);
  const size = new Uint8Array(count).fill(NORMAL_SIZE);
  const rank = new Uint8Array(count);
  // the contrast of places holds from 86 % (draw/place_colours.py)
  const solid = count > 5_000 ? 220 : 238;
  const faint = count > 50_000 ? 90 : 130;
  const table = paint.kind === "values" ? valueTable(paint, palette) : groupTable(paint, palette);
  const span = paint.kind === "values" ? paint.high - paint.low || 1 : 1;
  const none = table.length / 3 - 1;
  for (let i = 0; i < count; i++) {
    const value = paint.of[i] ?? NaN;
    let step = none;
    if (paint.kind === "groups") {
      if (value >= 0) step = value;
      rank[i] = value >= 0 && (paint.ordered || paint.colours || value < palette.series.length) ? 2 : 1;
    } else if (value === value) {
      const share = Math.min(Math.max((value - paint.low) / span, 0), 1);
      step = Math.round(255 * share);
      const strength = paint.signed ? Math.abs(2 * share - 1) : share;
      rank[i] = 2 + Math.round(250 * strength);
      size[i] = NORMAL_SIZE * (paint.signed ? 0.6 + 1.5 * Math.sqrt(strength) : 0.85 + 0.4 * strength);
    } else rank[i] = 1;
    const dim = focus !== null && focus[i] === 0;
    if (dim) {
      rank[i] = 0;
      size[i] = Math.min(size[i]!, NORMAL_SIZE);
    }
    for (let part = 0; part < 3; part++) {
      const own = table[3 * step + part]!;
      colour[4 * i + part] = dim ? 0.3 * own + 0.7 * palette.grey[part]! : own;
    }
    colour[4 * i + 3] = dim ? faint : solid;
  }
  return { colour, size, order: byRank(rank) };
}

/** Colours of values, and that of no value as the last. */
function valueTable(paint: Values, palette: Palette): Uint8Array {
  const table = ramp(paint.signed ? palette.signed : palette.heat);
  return joined(table, mix(palette.grey, palette.paper, 0.4));
}

function groupTable(paint: Groups, palette: Palette): Uint8Array {
  const colours = groupColours(paint, palette);
  return joined(Uint8Array.from(colours.flatMap((c) => [...c].map(Math.round))), palette.grey);
}

function joined(table: Uint8Array, last: Colour): Uint8Array {
  const all = new Uint8Array(table.length + 3);
  all.set(table);
  all.set(last.map(Math.round), table.length);
  return all;
}

/** Points in ascending rank, equal ones in their own order: a counting sort. */
function byRank(rank: Uint8Array): Uint32Array {
  const start = new Uint32Array(257);
  for (const value of rank) start[value + 1]! += 1;
  for (let r = 1; r < 257; r++) start[r]! += start[r - 1]!;
  const order = new Uint32Array(rank.length);
  for (let i = 0; i < rank.length; i++) order[start[rank[i]!]!++] = i;
  return order;
}
