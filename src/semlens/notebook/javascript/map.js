// The map of components: move, zoom, hover, select.

const RADIUS = 4;
const CROP = 26; // pixels per unit of the map from which crops are drawn: a crop is 0.9 units wide
const MOST_CROPS = 250; // visible components up to which crops are drawn
const MANY = 10000; // visible components from which dots are squares, which are drawn faster
const NEAR = 9; // pixels within which a point is meant
const TIP_CROPS = 8;

/** The numbers of a Bytes trait; it arrives as a view that need not be aligned. */
function numbers(view, kind) {
  return new kind(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));
}

/** What is visible: map units with y upwards, screen pixels with y downwards. */
class View {
  constructor(points, places) {
    const [low, high] = [[Infinity, Infinity], [-Infinity, -Infinity]];
    [...points, ...places.flatMap(({ x, y }) => [x, y])].forEach((value, i) => {
      low[i % 2] = Math.min(low[i % 2], value);
      high[i % 2] = Math.max(high[i % 2], value);
    });
    this.box = points.length ? [...low, ...high] : [0, 0, 1, 1];
    this.width = this.height = 1;
    this.whole = true;
  }

  resize(width, height) {
    Object.assign(this, { width, height });
    if (this.whole) this.fit();
  }

  fit() {
    const [left, bottom, right, top] = this.box;
    this.x = (left + right) / 2;
    this.y = (bottom + top) / 2;
    this.scale = Math.min(this.width / (right - left + 2), this.height / (top - bottom + 2));
    this.least = this.scale / 2;
    this.whole = true;
  }

  screen(x, y) {
    return [(x - this.x) * this.scale + this.width / 2, (this.y - y) * this.scale + this.height / 2];
  }

  move(dx, dy) {
    this.x -= dx / this.scale;
    this.y += dy / this.scale;
    this.whole = false;
  }

  zoom(factor, h = this.width / 2, v = this.height / 2) {
    const [x, y] = [this.x + (h - this.width / 2) / this.scale, this.y - (v - this.height / 2) / this.scale];
    this.scale = Math.min(400, Math.max(this.least, this.scale * factor));
    this.x = x - (h - this.width / 2) / this.scale;
    this.y = y + (v - this.height / 2) / this.scale;
    this.whole = false;
  }
}

function render({ model, el }) {
  const crops = new Crops(model);
  const pictures = new Map(); // url -> image
  const points = numbers(model.get("_points"), Float32Array);
  const [names, labels, rows] = [model.get("_names"), model.get("_labels"), model.get("_rows")];
  const view = new View(points, model.get("_places"));
  let colours, order, found = null, hovered = -1, dragged = null, frame = 0;

  // -- elements ------------------------------------------------------------------------------
  const canvas = element("canvas", { tabIndex: 0 });
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `Map of ${names.length} components`);
  const tip = element("div", { className: "tip", hidden: true });
  const menu = element("select", { title: "Colour by" });
  const legend = element("span", { className: "legend" });
  const search = element("input", { type: "search", placeholder: "Find a label or name", title: "Enter selects what is found" });
  search.setAttribute("aria-label", search.placeholder);
  const button = (textContent, title, onclick) => element("button", { type: "button", textContent, title, onclick });
  const status = element("span", { role: "status" });
  const clear = button("Clear", "Select nothing (Escape)", () => select([]));
  const zoomed = (factor) => () => (view.zoom(factor), redraw());
  const fit = () => (view.fit(), redraw());
  const stage = element("div", { className: "stage" }, canvas, tip);
  const root = element("div", { className: "semlens-widget semlens-map" },
    element("div", { className: "bar" },
      element("label", {}, "Colour by ", menu), search,
      element("span", { className: "push" }, button("+", "Zoom in", zoomed(1.4)), " ",
        button("−", "Zoom out", zoomed(1 / 1.4)), " ", button("Fit", "Show the whole map", fit))),
    stage,
    element("div", { className: "bar" }, legend, element("span", { className: "push" }), status, clear));
  // in JupyterLab, "0" twice restarts the kernel, and "d" twice deletes the cell
  for (const part of [canvas, menu, search]) part.dataset.lmSuppressShortcuts = "true";
  el.append(root);

  // -- drawing -------------------------------------------------------------------------------
  const redraw = () => (frame ||= requestAnimationFrame(draw));
  const colour = (i) => `rgb(${colours[3 * i]} ${colours[3 * i + 1]} ${colours[3 * i + 2]})`;
  const at = (i) => view.screen(points[2 * i], points[2 * i + 1]);
  const isVisible = ([h, v]) => h > -30 && v > -30 && h < view.width + 30 && v < view.height + 30;

  function draw() {
    frame = 0;
    const ratio = globalThis.devicePixelRatio || 1;
    [canvas.width, canvas.height] = [Math.round(view.width * ratio), Math.round(view.height * ratio)];
    const context = canvas.getContext("2d");
    const style = getComputedStyle(root);
    context.scale(ratio, ratio);
    const visible = [...order].filter((i) => isVisible(at(i)));
    const asCrops = view.scale >= CROP && visible.length <= MOST_CROPS;
    const radius = RADIUS * Math.min(2, Math.max(0.3, Math.sqrt(view.scale / 14)));
    const selected = new Set(model.get("selected"));
    for (const i of visible) {
      const [h, v] = at(i);
      context.globalAlpha = found && !found.has(i) ? 0.12 : 1;
      const side = asCrops ? 0.9 * view.scale : 2 * radius;
      const picture = asCrops ? pictureOf(i) : undefined;
      if (picture) {
        context.drawImage(picture, h - side / 2, v - side / 2, side, side);
        context.lineWidth = 2;
        context.strokeStyle = colour(i);
        context.strokeRect(h - side / 2, v - side / 2, side, side);
      } else {
        context.fillStyle = colour(i);
        if (visible.length > MANY) context.fillRect(h - radius, v - radius, 2 * radius, 2 * radius);
        else {
          context.beginPath();
          context.arc(h, v, radius, 0, 7);
          context.fill();
        }
      }
      if (selected.has(names[i]) || i === hovered) {
        context.lineWidth = 2.5;
        context.strokeStyle = style.color;
        context.beginPath();
        if (picture) context.rect(h - side / 2 - 2, v - side / 2 - 2, side + 4, side + 4);
        else context.arc(h, v, radius + 2.5, 0, 7);
        context.stroke();
      }
    }
    context.globalAlpha = 1;
    drawPlaces(context, style);
    drawRectangle(context, style);
  }

  function pictureOf(i) {
    const known = crops.get(rows[i], 1, redraw);
    const url = known?.urls[0];
    if (!url) return undefined;
    if (!pictures.has(url)) pictures.set(url, element("img", { onload: redraw, src: url }));
    const picture = pictures.get(url);
    return picture.complete && picture.naturalWidth ? picture : undefined;
  }

  /** Names of places, the largest first, where they do not cover each other. */
  function drawPlaces(context, style) {
    const taken = [];
    context.font = `600 12px ${style.fontFamily}`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    for (const place of model.get("_places")) {
      const [h, v] = view.screen(place.x, place.y);
      const half = context.measureText(place.name).width / 2 + 3;
      const hits = taken.some((t) => Math.abs(t.h - h) < t.half + half && Math.abs(t.v - v) < 16);
      if (hits || !isVisible([h, v])) continue;
      taken.push({ h, v, half });
      context.lineWidth = 4;
      context.lineJoin = "round";
      context.strokeStyle = style.backgroundColor;
      context.strokeText(place.name, h, v);
      context.fillStyle = style.color;
      context.fillText(place.name, h, v);
    }
  }

  function drawRectangle(context, style) {
    if (!dragged?.rectangle) return;
    context.setLineDash([5, 4]);
    context.lineWidth = 1;
    context.strokeStyle = style.color;
    context.strokeRect(dragged.h, dragged.v, dragged.toH - dragged.h, dragged.toV - dragged.v);
    context.setLineDash([]);
  }

  // -- state of the model --------------------------------------------------------------------
  function select(chosen) {
    model.set("selected", chosen);
    model.save_changes();
  }

  function showSelection() {
    const count = model.get("selected").length;
    status.textContent = `${count} of ${names.length} selected`;
    clear.disabled = !count;
    redraw();
  }

  function showLook() {
    const look = model.get("_look");
    colours = numbers(look.points, Uint8Array);
    order = numbers(look.order, Uint32Array);
    const { names: entries = [], more = 0, title, low, high, stops } = look.legend;
    legend.replaceChildren(...entries.map(([name, value]) => {
      const dot = element("span", { className: "dot" });
      dot.style.background = value;
      return element("span", {}, dot, name);
    }));
    if (more) legend.append(`and ${more} more`);
    if (stops) {
      const scale = element("span", { className: "scale" });
      scale.style.background = `linear-gradient(to right, ${stops.join(", ")})`;
      legend.append(`${title} ${low} `, scale, ` ${high}`);
    }
    redraw();
  }

  function showMenu() {
    menu.replaceChildren(...model.get("_choices").map((name) => element("option", { value: name, textContent: name })));
    menu.value = model.get("colour");
  }

  menu.onchange = () => {
    model.set("colour", menu.value);
    model.save_changes();
  };
  search.oninput = () => {
    const text = search.value.trim().toLowerCase();
    const matches = (i) => names[i].toLowerCase().includes(text) || labels[i].toLowerCase().includes(text);
    found = text ? new Set([...names.keys()].filter(matches)) : null;
    redraw();
  };
  search.onkeydown = (event) => {
    event.stopPropagation();
    if (event.key === "Enter" && found) select(names.filter((_, i) => found.has(i)));
  };

  // -- pointer and keys ----------------------------------------------------------------------
  function position(event) {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  function nearest(h, v) {
    let [best, index] = [Math.max(NEAR, view.scale >= CROP ? view.scale / 2 : 0) ** 2, -1];
    for (let i = 0; i < names.length; i++) {
      const [x, y] = at(i);
      const distance = (x - h) ** 2 + (y - v) ** 2;
      if (distance < best) [best, index] = [distance, i];
    }
    return index;
  }

  function hover(i) {
    if (i === hovered) return;
    hovered = i;
    tip.hidden = i < 0;
    canvas.style.cursor = i < 0 ? "" : "pointer";
    if (i >= 0) {
      const strip = element("div", { className: "strip" });
      tip.replaceChildren(
        element("b", { textContent: labels[i] || "(no label)" }), " ", element("code", { textContent: names[i] }), strip);
      showCrops(strip, crops, rows[i], TIP_CROPS, names[i]);
      const [h, v] = at(i);
      tip.style.left = `${Math.max(4, Math.min(h + 14, view.width - tip.offsetWidth - 4))}px`;
      const below = v + 14 + 210 < view.height || v < view.height / 2;
      tip.style.top = below ? `${v + 14}px` : "";
      tip.style.bottom = below ? "" : `${view.height - v + 14}px`;
    }
    redraw();
  }

  canvas.onpointerdown = (event) => {
    if (event.button !== 0) return;
    const [h, v] = position(event);
    canvas.setPointerCapture(event.pointerId);
    dragged = { h, v, toH: h, toV: v, rectangle: event.shiftKey, moved: false };
  };
  canvas.onpointermove = (event) => {
    const [h, v] = position(event);
    if (!dragged) return hover(nearest(h, v));
    if (!dragged.moved && Math.hypot(h - dragged.h, v - dragged.v) < 4) return undefined;
    hover(-1);
    dragged.moved = true;
    if (!dragged.rectangle) view.move(h - dragged.toH, v - dragged.toV);
    [dragged.toH, dragged.toV] = [h, v];
    return redraw();
  };
  canvas.onpointerup = (event) => {
    if (!dragged) return;
    const { h, v, toH, toV, rectangle, moved } = dragged;
    const chosen = model.get("selected");
    dragged = null;
    if (moved && rectangle) {
      const holds = (i) => ((x, y) => (x - h) * (x - toH) <= 0 && (y - v) * (y - toV) <= 0)(...at(i));
      select([...new Set([...chosen, ...names.filter((_, i) => holds(i))])]);
    } else if (!moved) {
      const i = nearest(h, v);
      const adds = event.shiftKey || event.ctrlKey || event.metaKey;
      if (i < 0) select(adds ? chosen : []);
      else if (!adds) select([names[i]]);
      else select(chosen.includes(names[i]) ? chosen.filter((n) => n !== names[i]) : [...chosen, names[i]]);
    }
    redraw();
  };
  canvas.onpointercancel = () => ((dragged = null), redraw());
  canvas.onpointerleave = () => dragged || hover(-1);
  canvas.onwheel = (event) => {
    event.preventDefault();
    hover(-1);
    view.zoom(Math.exp(-event.deltaY / 400), ...position(event));
    redraw();
  };
  const keys = {
    "+": zoomed(1.4), "=": zoomed(1.4), "-": zoomed(1 / 1.4), 0: fit, Escape: () => select([]),
    ArrowLeft: () => view.move(40, 0), ArrowRight: () => view.move(-40, 0),
    ArrowUp: () => view.move(0, 40), ArrowDown: () => view.move(0, -40),
  };
  canvas.onkeydown = (event) => {
    if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation(); // other notebooks have shortcuts as well
    keys[event.key]();
    redraw();
  };

  // -- life ----------------------------------------------------------------------------------
  const resized = new ResizeObserver(() => {
    view.resize(stage.clientWidth, stage.clientHeight);
    redraw();
  });
  const showHeight = () => (stage.style.height = `${model.get("height")}px`);
  const listeners = {
    "change:selected": showSelection, "change:_look": showLook, "change:_choices": showMenu,
    "change:colour": showMenu, "change:height": showHeight,
  };
  for (const [name, listener] of Object.entries(listeners)) model.on(name, listener);
  showHeight();
  showMenu();
  showLook();
  showSelection();
  resized.observe(stage);
  return () => {
    for (const [name, listener] of Object.entries(listeners)) model.off(name, listener);
    resized.disconnect();
    cancelAnimationFrame(frame);
    crops.dispose();
  };
}

export default { render };
