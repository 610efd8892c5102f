/** The settings of a lens: form fields from their JSON schema, and their values in the address. */
import type { LensInfo } from "../../api/types";
import { route } from "../../state/route.svelte";

/** What a field takes: what of the model it names, or a plain value. */
type Kind =
  | "class" | "component" | "layer" | "concepts" | "image"
  | "choice" | "flag" | "number" | "text"; // prettier-ignore

export interface Field {
  name: string;
  title: string;
  help: string;
  kind: Kind;
  required: boolean;
  /** Whether several values may be given. */
  many: boolean;
  whole: boolean;
  min: number | undefined;
  max: number | undefined;
  choices: readonly string[];
  default: unknown;
  /** Whether it is shown at once; the others are below “More settings”. */
  prominent: boolean;
}

interface Schema {
  type?: string;
  kind?: Kind;
  description?: string;
  default?: unknown;
  anyOf?: Schema[];
  enum?: unknown[];
  const?: unknown;
  minimum?: number;
  maximum?: number;
  exclusiveMinimum?: number;
  exclusiveMaximum?: number;
}

/** A value of a form: texts as typed, or whether a box is ticked. */
export type Value = string | readonly string[] | boolean;
export type Values = Readonly<Record<string, Value>>;
export type Settings = Record<string, unknown>;

/** Parameters of the address start with it, since lenses may name a setting like one of the page. */
const PREFIX = "set-";

export function fieldsOf(lens: LensInfo): Field[] {
  const { properties = {}, required = [] } = lens.settings as {
    properties?: Record<string, Schema>;
    required?: string[];
  };
  return Object.entries(properties).map(([name, schema]) => {
    const types = (schema.anyOf ?? [schema]).filter((one) => one.type !== "null");
    const simple = types.filter((one) => one.type !== "array");
    const first = simple[0] ?? types[0] ?? {};
    const choices = (first.enum ?? (first.const === undefined ? [] : [first.const])).map(String);
    const isNumber = first.type === "number" || first.type === "integer";
    const plain = first.type === "boolean" ? "flag" : isNumber ? "number" : "text";
    const kind = schema.kind ?? (choices.length ? "choice" : plain);
    return {
      name,
      title: capital(name.replaceAll("_", " ")),
      help: schema.description ?? "",
      kind,
      required: required.includes(name),
      many: types.some((one) => one.type === "array") && (!simple.length || kind === "concepts"),
      whole: first.type === "integer",
      min: first.minimum ?? first.exclusiveMinimum,
      max: first.maximum ?? first.exclusiveMaximum,
      choices,
      default: schema.default,
      prominent: required.includes(name) || !["number", "flag", "text"].includes(kind),
    };
  });
}

function capital(text: string): string {
  return text.slice(0, 1).toUpperCase() + text.slice(1);
}

/** What the address says about the fields. */
export function valuesOf(fields: readonly Field[]): Values {
  const values: Record<string, Value> = {};
  for (const field of fields) {
    const given = route.all(PREFIX + field.name);
    if (!given.length) continue;
    if (field.kind === "flag") values[field.name] = given[0] === "true";
    else values[field.name] = field.kind === "layer" && field.many ? given : given.join(", ");
  }
  return values;
}

/** Parameters of the address that hold some values; others are removed. */
export function paramsOf(fields: readonly Field[], values: Values): Record<string, string[] | string | null> {
  return Object.fromEntries(
    fields.map((field) => {
      const value = values[field.name];
      const text = typeof value === "boolean" ? String(value) : value;
      return [PREFIX + field.name, text?.length ? ([text].flat() as string[]) : null];
    }),
  );
}

/** The settings that are sent: only those that differ from the default. */
export function settingsOf(fields: readonly Field[], values: Values): Settings {
  const settings: Settings = {};
  for (const field of fields) {
    const value = values[field.name];
    if (value === undefined || (typeof value !== "boolean" && !value.length)) continue;
    const parsed = parse(field, value);
    if (parsed !== field.default) settings[field.name] = parsed;
  }
  return settings;
}

function parse(field: Field, value: Value): unknown {
  if (typeof value === "boolean") return value;
  if (field.many) {
    const items = typeof value === "string" ? split(value) : [...value];
    if (field.kind === "image") return items.map(Number);
    return field.kind === "concepts" && items.length === 1 ? items[0] : items;
  }
  const text = String(value).trim();
  if (field.kind === "number") return Number(text);
  // a class by the number of its logit, or by name
  return field.kind === "class" && /^\d+$/.test(text) ? Number(text) : text;
}

function split(text: string): string[] {
  return text.split(/[\n,]/).map((item) => item.trim()).filter(Boolean); // prettier-ignore
}
