/** Colours as numbers: tokens of the style sheet, mixtures, and ramps that look even. */
export type Colour = readonly [red: number, green: number, blue: number];

/** A computed colour such as `rgb(12, 34, 56)`. */
export function parse(text: string): Colour {
  const [red = 0, green = 0, blue = 0] = (text.match(/[\d.]+/g) ?? []).map(Number);
  return [red, green, blue];
}

/** A colour such as `#1a2b3c`. */
export function hex(text: string): Colour {
  const value = Number.parseInt(text.slice(1), 16);
  return [value >> 16, (value >> 8) & 255, value & 255];
}

export function css([red, green, blue]: Colour, alpha = 1): string {
  const part = (value: number): number => Math.round(value);
  return `rgb(${part(red)} ${part(green)} ${part(blue)} / ${alpha})`;
}

export function mix(a: Colour, b: Colour, share: number): Colour {
  const [la, lb] = [toLab(a), toLab(b)];
  return fromLab([0, 1, 2].map((i) => la[i]! + (lb[i]! - la[i]!) * share));
}

const STEPS = 256;

/** 256 colours through some stops, at even distances of OKLab: equal steps look equal. */
export function ramp(stops: readonly Colour[]): Uint8Array {
  const table = new Uint8Array(3 * STEPS);
  for (let i = 0; i < STEPS; i++) {
    const at = (i / (STEPS - 1)) * (stops.length - 1);
    const from = Math.min(Math.floor(at), stops.length - 2);
    table.set(mix(stops[from]!, stops[from + 1]!, at - from).map(Math.round), 3 * i);
  }
  return table;
}

export function ofRamp(table: Uint8Array, share: number): Colour {
  const at = 3 * Math.round(Math.min(Math.max(share, 0), 1) * (STEPS - 1));
  return [table[at]!, table[at + 1]!, table[at + 2]!];
}

// OKLab: B. Ottosson, A perceptual color space for image processing (2020)
function toLab(colour: Colour): number[] {
  const [r = 0, g = 0, b = 0] = colour.map((value) => {
    const v = value / 255;
    return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  });
  const l = Math.cbrt(0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b);
  const m = Math.cbrt(0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b);
  const s = Math.cbrt(0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b);
  return [
    0.2104542553 * l + 0.793617785 * m - 0.0040720468 * s,
    1.9779984951 * l - 2.428592205 * m + 0.4505937099 * s,
    0.0259040371 * l + 0.7827717662 * m - 0.808675766 * s,
  ];
}

function fromLab([lightness = 0, a = 0, b = 0]: readonly number[]): Colour {
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  const linear = [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ];
  const [red = 0, green = 0, blue = 0] = linear.map((v) => {
    const clear = Math.min(Math.max(v, 0), 1);
    return 255 * (clear <= 0.0031308 ? 12.92 * clear : 1.055 * clear ** (1 / 2.4) - 0.055);
  });
  return [red, green, blue];
}
