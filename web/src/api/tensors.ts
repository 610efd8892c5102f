/** Parser for safetensors: arrays are views of the response, without copying. */
const KINDS = {
  F32: Float32Array,
  I32: Int32Array,
  I16: Int16Array,
  I8: Int8Array,
  U8: Uint8Array,
  U16: Uint16Array,
  U32: Uint32Array,
} as const;

export type Tensor = InstanceType<(typeof KINDS)[keyof typeof KINDS]>;

export interface Tensors {
  has(name: string): boolean;
  /** A tensor by name and type. */
  get<K extends keyof typeof KINDS>(name: string, kind: K): InstanceType<(typeof KINDS)[K]>;
  metadata: Record<string, string>;
}

interface Entry {
  dtype: string;
  data_offsets: [number, number];
}

export function parseTensors(buffer: ArrayBuffer): Tensors {
  const length = Number(new DataView(buffer).getBigUint64(0, true));
  const text = new TextDecoder().decode(new Uint8Array(buffer, 8, length));
  const header = JSON.parse(text) as Record<string, Entry> & {
    __metadata__?: Record<string, string>;
  };
  return {
    metadata: header.__metadata__ ?? {},
    has: (name) => name in header,
    get(name, kind) {
      const entry = header[name];
      if (!entry || entry.dtype !== kind) throw new Error(`no tensor '${name}' of kind ${kind}`);
      const [start, end] = entry.data_offsets;
      const make = KINDS[kind];
      const at = 8 + length + start;
      const count = (end - start) / make.BYTES_PER_ELEMENT;
      // a view must start at a multiple of its item size
      const from = at % make.BYTES_PER_ELEMENT === 0 ? buffer : buffer.slice(at);
      return new make(from, from === buffer ? at : 0, count) as InstanceType<
        (typeof KINDS)[typeof kind]
      >;
    },
  };
}
