// The card of one component.

const EXAMPLES = 12;

/** Three digits, or whole numbers where they have more. */
function short(value) {
  if (value === null) return "-";
  return Math.abs(value) < 1000 ? value.toPrecision(3) : Math.round(value).toLocaleString("en");
}

function row({ name, value, below, meaning }) {
  const place = below === null ? "" : `above ${Math.round(100 * below)} % of the layer`;
  return element("tr", { title: meaning },
    element("th", { scope: "row", textContent: name.replaceAll("_", " ") }),
    element("td", { className: "number", textContent: short(value) }),
    element("td", { className: "soft", textContent: place }));
}

function share(relevance) {
  const bar = element("span", { className: "bar" });
  bar.style.width = `${Math.min(100, 100 * relevance.mean)}%`;
  return element("tr", {},
    element("th", { scope: "row", textContent: relevance.class }),
    element("td", { className: "number", textContent: `${(100 * relevance.mean).toFixed(1)} %` }),
    element("td", { className: "track" }, bar));
}

function render({ model, el }) {
  const crops = new Crops(model);
  const root = element("div", { className: "semlens-widget semlens-card" });
  el.append(root);

  const draw = () => {
    const card = model.get("_card");
    if (!card) {
      root.replaceChildren(element("p", { className: "soft", textContent: "Select a component on the map." }));
      return;
    }
    const strip = element("div", { className: "strip" });
    root.replaceChildren(
      element("header", {}, element("b", { textContent: card.label ?? "(no label)" }), " ",
        element("code", { textContent: card.component })),
      strip,
      element("table", {}, element("tbody", {}, ...card.values.map(row))),
    );
    if (card.classes.length) {
      root.append(element("p", { className: "soft", textContent: "share of the layer's relevance, by class" }),
        element("table", {}, element("tbody", {}, ...card.classes.map(share))));
    }
    showCrops(strip, crops, card.row, EXAMPLES, card.component);
  };
  model.on("change:_card", draw);
  draw();
  return () => {
    model.off("change:_card", draw);
    crops.dispose();
  };
}

export default { render };
