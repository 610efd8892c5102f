/** Colours of the map from the tokens of the style sheet, read again when the theme changes. */
import { token } from "../../state/theme.svelte";
import { mix, parse } from "./colour";
import type { Palette } from "./paint";

/** Number of distinguishable hues; further groups are grey. */
const HUES = 7;

export function readPalette(): Palette {
  const of = (name: string) => parse(token(name));
  // points must not fade into the background
  const pale = mix(of("heat-0"), of("heat-1"), 0.3);
  return {
    paper: of("paper"),
    ink: of("ink"),
    soft: of("soft"),
    grey: of("edge"),
    accent: of("accent"),
    series: Array.from({ length: HUES }, (_, i) => of(`series-${i + 1}`)),
    heat: [pale, of("heat-1"), of("heat-2"), of("heat-3")],
    signed: [of("against"), mix(of("edge"), of("paper"), 0.3), of("for")],
  };
}
