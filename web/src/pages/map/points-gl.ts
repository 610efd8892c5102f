/**
 * Points with WebGL2: buffers of positions, colours, sizes and order. Panning and zooming only change
 * uniforms; no buffer is uploaded again.
 */
import { NORMAL_SIZE, type PointLayer, type Style } from "./points";
import type { View } from "./view";

const VERTEX = `#version 300 es
uniform vec2 middle, scale;
uniform float diameter;
in vec2 place;
in vec4 colour;
in float size;
out vec4 shade;
out float across;
void main() {
  gl_Position = vec4((place - middle) * scale, 0.0, 1.0);
  across = max(diameter * size, 1.0);
  gl_PointSize = across + 1.0;
  shade = vec4(colour.rgb * colour.a, colour.a);
}`;

// a disk with an edge that fades over a pixel, instead of multisampling the whole canvas
const FRAGMENT = `#version 300 es
precision mediump float;
in vec4 shade;
in float across;
out vec4 result;
void main() {
  float away = length(gl_PointCoord - 0.5) * (across + 1.0);
  float cover = clamp(across * 0.5 + 0.5 - away, 0.0, 1.0);
  result = shade * cover;
}`;

/** Whether WebGL runs in software, as on many virtual machines: then a 2D canvas is faster. */
function isSoftware(gl: WebGL2RenderingContext): boolean {
  const names = gl.getExtension("WEBGL_debug_renderer_info");
  const renderer = String(gl.getParameter(names ? names.UNMASKED_RENDERER_WEBGL : gl.RENDERER));
  return /swiftshader|llvmpipe|softpipe|software|basic render/i.test(renderer);
}

export class GlPoints implements PointLayer {
  readonly kind = "webgl";
  readonly canvas = document.createElement("canvas");
  readonly #gl: WebGL2RenderingContext;
  #program: WebGLProgram | null = null;
  #array: WebGLVertexArrayObject | null = null;
  /** Looked up once, since each lookup waits for pending draws. */
  #uniforms: Record<"middle" | "scale" | "diameter", WebGLUniformLocation | null> | null = null;
  #buffers: Record<"place" | "colour" | "size" | "order", WebGLBuffer> | null = null;
  #places: Float32Array = new Float32Array();
  #style: Style | null = null;

  /**
   * @param onlost called when the context is lost, for example after a driver restart.
   * @param onrestored called when the context and the buffers are restored.
   * @throws if WebGL2 is not available or runs in software.
   */
  constructor(onlost: () => void, onrestored: () => void) {
    const gl = this.canvas.getContext("webgl2", {
      antialias: false,
      depth: false,
      stencil: false,
      powerPreference: "low-power",
    });
    if (!gl || isSoftware(gl)) throw new Error("no WebGL2 by a graphics processor");
    this.#gl = gl;
    this.#start();
    this.canvas.addEventListener("webglcontextlost", (event) => {
      event.preventDefault(); // or it never comes back
      onlost();
    });
    this.canvas.addEventListener("webglcontextrestored", () => {
      this.#start();
      this.#sendPlaces();
      if (this.#style) this.#sendStyle(this.#style);
      onrestored();
    });
  }

  #start(): void {
    const gl = this.#gl;
    const program = gl.createProgram();
    for (const [kind, source] of [
      [gl.VERTEX_SHADER, VERTEX],
      [gl.FRAGMENT_SHADER, FRAGMENT],
    ] as const) {
      const shader = gl.createShader(kind);
      if (!shader) throw new Error("no shader");
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS) && !gl.isContextLost())
      throw new Error(gl.getProgramInfoLog(program) ?? "no program");
    this.#program = program;
    this.#uniforms = {
      middle: gl.getUniformLocation(program, "middle"),
      scale: gl.getUniformLocation(program, "scale"),
      diameter: gl.getUniformLocation(program, "diameter"),
    };
    this.#array = gl.createVertexArray();
    gl.bindVertexArray(this.#array);
    const buffer = (name: string, parts: number, kind: number, whole: boolean): WebGLBuffer => {
      const made = gl.createBuffer();
      const at = gl.getAttribLocation(program, name);
      gl.bindBuffer(gl.ARRAY_BUFFER, made);
      gl.enableVertexAttribArray(at);
      gl.vertexAttribPointer(at, parts, kind, whole, 0, 0);
      return made;
    };
    this.#buffers = {
      place: buffer("place", 2, gl.FLOAT, false),
      colour: buffer("colour", 4, gl.UNSIGNED_BYTE, true),
      size: buffer("size", 1, gl.UNSIGNED_BYTE, false),
      order: gl.createBuffer(),
    };
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, this.#buffers.order);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
  }

  setPoints(x: Float32Array, y: Float32Array): void {
    this.#places = new Float32Array(2 * x.length);
    for (let i = 0; i < x.length; i++) {
      this.#places[2 * i] = x[i]!;
      this.#places[2 * i + 1] = y[i]!;
    }
    this.#sendPlaces();
  }

  #sendPlaces(): void {
    this.#send(this.#gl.ARRAY_BUFFER, this.#buffers?.place, this.#places);
  }

  setStyle(style: Style): void {
    this.#style = style;
    this.#sendStyle(style);
  }

  #sendStyle({ colour, size, order }: Style): void {
    const gl = this.#gl;
    this.#send(gl.ARRAY_BUFFER, this.#buffers?.colour, colour);
    this.#send(gl.ARRAY_BUFFER, this.#buffers?.size, size);
    this.#send(gl.ELEMENT_ARRAY_BUFFER, this.#buffers?.order, order);
  }

  #send(target: number, buffer: WebGLBuffer | undefined, data: ArrayBufferView): void {
    if (!buffer) return;
    this.#gl.bindBuffer(target, buffer);
    this.#gl.bufferData(target, data, this.#gl.STATIC_DRAW);
  }

  draw(view: View, diameter: number, ratio: number): void {
    const gl = this.#gl;
    const [width, height] = [Math.round(view.width * ratio), Math.round(view.height * ratio)];
    if (this.canvas.width !== width) this.canvas.width = width;
    if (this.canvas.height !== height) this.canvas.height = height;
    gl.viewport(0, 0, width, height);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT);
    if (!this.#uniforms || !this.#style) return;
    const { middle, scale, diameter: across } = this.#uniforms;
    gl.useProgram(this.#program);
    gl.bindVertexArray(this.#array);
    gl.uniform2f(middle, view.mapX(view.width / 2), view.mapY(view.height / 2));
    gl.uniform2f(scale, (2 * view.scale) / view.width, (2 * view.scale) / view.height);
    gl.uniform1f(across, (diameter * ratio) / NORMAL_SIZE);
    gl.drawElements(gl.POINTS, this.#style.order.length, gl.UNSIGNED_INT, 0);
  }

  destroy(): void {
    this.#gl.getExtension("WEBGL_lose_context")?.loseContext();
    this.canvas.remove();
  }
}
