import { vitePreprocess } from "@sveltejs/vite-plugin-svelte";

const styles = new Map();

/** A short class for a component's styles: each element has it, and it does not compress. */
function cssHash({ hash, css }) {
  const name = `s${hash(css).slice(0, 4)}`;
  if ((styles.get(name) ?? css) !== css) throw new Error(`Two components share the class ${name}.`);
  styles.set(name, css);
  return name;
}

export default { preprocess: vitePreprocess(), compilerOptions: { runes: true, cssHash } };
