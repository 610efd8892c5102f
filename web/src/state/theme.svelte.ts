/** Theme: system, light or dark; stored in the browser. */
export const THEMES = ["system", "light", "dark"] as const;
export type Theme = (typeof THEMES)[number];

const KEY = "semlens-theme";

function stored(): Theme {
  try {
    return THEMES.find((name) => name === localStorage.getItem(KEY)) ?? "system";
  } catch {
    return "system"; // storage may be forbidden
  }
}

class ThemeState {
  #choice = $state<Theme>(stored());
  #system = $state(matchMedia("(prefers-color-scheme: dark)").matches);

  constructor() {
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", (event) => {
      this.#system = event.matches;
    });
    this.#apply();
  }

  get choice(): Theme {
    return this.#choice;
  }

  /** Whether the page is dark now; a canvas that reads it redraws when it changes. */
  get dark(): boolean {
    return this.#choice === "dark" || (this.#choice === "system" && this.#system);
  }

  set(choice: Theme): void {
    this.#choice = choice;
    try {
      localStorage.setItem(KEY, choice);
    } catch {
      // the choice then lasts until the page is closed
    }
    this.#apply();
  }

  #apply(): void {
    if (this.#choice === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = this.#choice;
  }
}

export const theme = new ThemeState();

/** The value of a colour token, for canvases. Read it in an effect that also reads `theme.dark`. */
export function token(name: string): string {
  const probe = document.createElement("i");
  probe.style.color = `var(--${name})`;
  document.body.append(probe);
  const colour = getComputedStyle(probe).color;
  probe.remove();
  return colour;
}
