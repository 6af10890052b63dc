// All test scans of a run as thumbnails: sorted, filtered, and each opens in the figure below them.
// `open` is called with the view of a scan and its caption. Returns a function that opens a scan by
// its name and says whether there is one.
const scanStrip = (figure, strip, open) => {
  const element = (name, className, parent, text = "") => {
    const made = document.createElement(name);
    made.className = className;
    made.textContent = text;
    parent.append(made);
    return made;
  };
  const box = document.createElement("section");
  box.className = "strip";
  figure.before(box);
  const tools = element("div", "strip-tools", box);
  const wrong = ["missed", "false alarm"];
  const words = ["missed", "false alarm", "found", "passed", "flagged", "not flagged"]
    .filter((word) => strip.scans.some((scan) => scan.outcome === word));
  let chosen = "";
  const chips = ["", ...words].map((word) => {
    const count = strip.scans.filter((scan) => !word || scan.outcome === word).length;
    const chip = element("button", "chip", tools, `${word || "all"} ${count}`);
    chip.addEventListener("click", () => {
      chosen = word;
      update();
    });
    return [word, chip];
  });
  const menu = (label, options) => {
    const made = element("select", "", element("label", "", tools, `${label} `));
    options.forEach(([value, text]) => { element("option", "", made, text).value = value; });
    made.autocomplete = "off";
    made.addEventListener("change", () => update());
    return made;
  };
  const kinds = [...new Set(strip.scans.map((scan) => scan.kind))].sort();
  const kind = menu("Kind", [["", "all"], ...kinds.map((name) => [name, name])]);
  const orders = {
    score: () => 0,
    mistakes: (a, b) => wrong.includes(b.outcome) - wrong.includes(a.outcome),
    name: (a, b) => a.name.localeCompare(b.name),
  };
  const order = menu("Sort", [["score", "highest score first"], ["mistakes", "mistakes first"], ["name", "by name"]]);
  const list = element("ul", "thumbnails", box);
  const items = new Map(strip.scans.map((scan) => {
    const short = scan.name.split("/").slice(-2).join("/");
    const item = element("li", wrong.includes(scan.outcome) ? "wrong" : "", list);
    const button = element(scan.view ? "button" : "div", "thumbnail", item);
    const image = element("img", "", button);
    Object.assign(image, { src: scan.thumbnail, alt: `Photo and map of ${short}`, width: 128, height: 64 });
    element("span", "name", button, short);
    element("b", "", button, scan.score.toFixed(2));
    element("span", "outcome", button, scan.outcome);
    if (scan.view) button.addEventListener("click", () => show(scan));
    return [scan, item];
  }));
  const caption = (scan) => {
    const limit = scan.threshold == null ? "" : `, threshold ${scan.threshold.toFixed(2)}`;
    return [scan.outcome[0].toUpperCase() + scan.outcome.slice(1), `: ${scan.name}, score ${scan.score.toFixed(2)}${limit}`];
  };
  const show = (scan) => {
    items.forEach((item, other) => item.classList.toggle("open", other === scan));
    open(scan.view, caption(scan));
  };
  const update = () => {
    chips.forEach(([word, chip]) => chip.setAttribute("aria-pressed", word === chosen));
    const sorted = [...strip.scans].sort((a, b) => orders[order.value](a, b));
    for (const scan of sorted) {
      const item = items.get(scan);
      item.hidden = (chosen && scan.outcome !== chosen) || (kind.value && scan.kind !== kind.value);
      list.append(item);
    }
  };
  update();
  const first = strip.scans[strip.first];
  items.get(first).classList.add("open");
  return {
    first: [first.view, caption(first)],
    named: (name) => {
      const scan = strip.scans.find((each) => each.name === name && each.view);
      if (scan) show(scan);
      return Boolean(scan);
    },
  };
};

// The figure's traces and layout with another scan in it, coloured by score.
const withScan = (data, base, view, active) => {
  const layout = structuredClone(base);
  const menu = layout.updatemenus[0];
  menu.active = active;
  menu.buttons.forEach((button, i) => { button.args[0] = { ...button.args[0], ...view.colors[i] }; });
  Object.assign(layout.meta.linked, { rows: view.rows, columns: view.columns });
  layout.scene.camera = view.camera;
  for (const axis of ["x", "y", "z"]) {
    layout.meta.narrow[`scene.camera.eye.${axis}`] = 1.25 * view.camera.eye[axis];
  }
  const [left, top, side] = view.box;
  for (const name of Object.keys(layout)) {
    if (/^xaxis/.test(name)) layout[name].range = [left, left + side];
    if (/^yaxis/.test(name)) layout[name].range = [top + side, top];
  }
  let image = 0;
  const traces = data.map((trace) => {
    if (trace.type === "image") return { ...trace, ...view.place, source: view.images[image++] };
    if (trace.type !== "scatter3d") return trace;
    const colors = view.colors[active], marker = { ...trace.marker };
    for (const [key, value] of Object.entries(colors)) {
      if (key.startsWith("marker.")) marker[key.slice(7)] = value[0];
    }
    return { ...trace, ...structuredClone(view.cloud), marker, hovertemplate: colors.hovertemplate[0] };
  });
  return { traces, layout };
};
