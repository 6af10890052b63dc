// Links the views of a scan: pointing at an image or at the cloud marks the same place in all of them.
// An image's axes count its pixels; layout.meta.linked holds the pixel of each point of the cloud.
// Returns a function that undoes everything.
const linkScan = (canvas, base) => {
  const linked = base.meta?.linked;
  if (!linked) return;
  const element = (name, className, parent) => {
    const made = document.createElement(name);
    made.className = className;
    parent.append(made);
    return made;
  };
  const bytes = (packed) => Uint8Array.from(atob(packed.bdata), (c) => c.charCodeAt(0)).buffer;
  const rows = new Uint16Array(bytes(linked.rows)), columns = new Uint16Array(bytes(linked.columns));
  const buttons = base.updatemenus[0].buttons;
  const colors = (button) => new Uint8Array(bytes(buttons[button].args[0]["marker.color"][0]));
  const truth = colors(1);
  const scores = linked.scores.map(([name, button]) => [name, colors(button)]);
  const curve = canvas.data.findIndex((trace) => trace.type === "scatter3d");
  const cloud = canvas.data[curve];
  const touch = matchMedia("(hover: none)").matches;

  const figure = canvas.closest(".plot");
  const tools = element("div", "tools-of-scan", figure);
  canvas.before(tools);
  const readout = element("p", "readout", tools);
  const invitation = `${touch ? "Tap" : "Point at"} an image or the cloud: the other views show the ` +
    "same place, and its scores appear here.";
  const marks = canvas.data.filter((t) => t.type === "image" || t === cloud).map((trace) => ({
    trace, mark: element("span", trace === cloud ? "mark point" : "mark", figure),
  }));
  let place = -1;

  const images = () => canvas._fullData.filter((trace) => trace.type === "image").map((trace) => {
    const layout = canvas._fullLayout;
    return [layout[trace.xaxis.replace("x", "xaxis")], layout[trace.yaxis.replace("y", "yaxis")]];
  });

  // The 3D view's box, and a function from a point of the cloud to [x, y, depth] in the window.
  const projection = () => {
    const scene = canvas._fullLayout.scene._scene, { glplot, dataScale } = scene;
    const { model, view, projection } = glplot.cameraParams;
    const box = glplot.canvas.getBoundingClientRect();
    const times = (a, b) => Float64Array.from({ length: 16 }, (_, i) => {
      let sum = 0;
      for (let k = 0; k < 4; k++) sum += a[4 * k + (i % 4)] * b[4 * (i >> 2) + k];
      return sum;
    });
    const m = times(projection, times(view, model));
    for (let i = 0; i < 12; i++) m[i] *= dataScale[i >> 2];
    const { x, y, z } = cloud;
    const to = (i, row) => m[row] * x[i] + m[4 + row] * y[i] + m[8 + row] * z[i] + m[12 + row];
    return { box, at: (i) => {
      const w = to(i, 3);
      return [box.x + (1 + to(i, 0) / w) * box.width / 2, box.y + (1 - to(i, 1) / w) * box.height / 2, w];
    } };
  };

  const inside = (box, x, y) => x >= box.x && y >= box.y && x <= box.x + box.width && y <= box.y + box.height;

  // The point whose pixel is nearest, if it is within reach.
  const nearestPixel = (row, column, reach) => {
    let best = -1, least = reach * reach;
    for (let i = 0; i < rows.length; i++) {
      const distance = (rows[i] - row) ** 2 + (columns[i] - column) ** 2;
      if (distance <= least) [best, least] = [i, distance];
    }
    return best;
  };

  // The nearest of the points that are drawn near the pointer and not hidden by others.
  const pointUnder = (x, y, { at }) => {
    const reach = touch ? 14 : 7, near = [];
    for (let i = 0; i < rows.length; i++) {
      const [px, py, depth] = at(i), distance = Math.hypot(px - x, py - y);
      if (distance < reach) near.push({ i, distance, depth });
    }
    const front = Math.min(...near.map((point) => point.depth));
    const seen = near.filter((point) => point.depth < 1.03 * front);
    return seen.sort((a, b) => a.distance - b.distance)[0]?.i ?? -1;
  };

  const find = (x, y) => {
    const origin = canvas.getBoundingClientRect();
    for (const [across, down] of images()) {
      const u = x - origin.x - across._offset, v = y - origin.y - down._offset;
      if (u < 0 || v < 0 || u > across._length || v > down._length) continue;
      const side = Math.abs(across.range[1] - across.range[0]);
      return nearestPixel(down.p2l(v), across.p2l(u), 4 + side / 50);
    }
    const seen = projection();
    return inside(seen.box, x, y) ? pointUnder(x, y, seen) : -1;
  };

  const describe = () => {
    readout.textContent = "";
    readout.classList.toggle("empty", place < 0);
    if (place < 0) {
      readout.append(invitation);
      return;
    }
    const [x, y, z] = ["x", "y", "z"].map((axis) => cloud[axis][place].toFixed(1).replace("-", "−"));
    const where = element("span", "where", readout);
    where.textContent = `row ${rows[place]}, column ${columns[place]}, height ${z} mm`;
    where.title = `x ${x}, y ${y}, z ${z} mm`;
    if (truth[place]) element("span", "defect", readout).textContent = "true defect";
    for (const [name, levels] of scores) {
      const score = element("span", "score", readout);
      score.append(`${name} `);
      const most = levels[place] >= linked.top ? "≥ " : "";
      element("b", "", score).textContent = `${most}${levels[place]} %`;
    }
  };

  // Runs on every frame while a place is shown, so that marks follow turning, zooming and resizing.
  const follow = () => {
    marks.forEach(({ mark }) => { mark.hidden = place < 0; });
    if (place < 0) return;
    const origin = canvas.getBoundingClientRect(), frame = figure.getBoundingClientRect();
    const axes = images();
    let image = 0;
    for (const { trace, mark } of marks) {
      let x, y, shown;
      if (trace === cloud) {
        const seen = projection();
        [x, y] = seen.at(place);
        shown = inside(seen.box, x, y);
      } else {
        const [across, down] = axes[image++];
        const u = across.l2p(columns[place]), v = down.l2p(rows[place]);
        shown = u >= 0 && v >= 0 && u <= across._length && v <= down._length;
        [x, y] = [origin.x + across._offset + u, origin.y + down._offset + v];
      }
      mark.hidden = !shown;
      mark.style.transform = `translate(${x - frame.x}px, ${y - frame.y}px)`;
    }
    requestAnimationFrame(follow);
  };

  const show = (found) => {
    if (found === place) return;
    const still = place < 0;
    place = found;
    describe();
    if (still || place < 0) follow();
  };
  const over = new AbortController(), listening = { capture: true, signal: over.signal };
  canvas.addEventListener("pointermove", (event) => {
    if (event.buttons === 0 && event.pointerType === "mouse") show(find(event.clientX, event.clientY));
  }, listening);
  canvas.addEventListener("pointerdown", (event) => {
    if (event.pointerType !== "mouse") show(find(event.clientX, event.clientY));
  }, listening);
  canvas.addEventListener("pointerleave", (event) => {
    if (event.pointerType === "mouse" && event.target === canvas) show(-1);
  }, listening);
  describe();
  scoreSlider(canvas, base, linked, curve, tools, element);
  follow();
  return () => {
    place = -1;
    over.abort();
    [tools, ...marks.map(({ mark }) => mark)].forEach((made) => made.remove());
  };
};

// Points of the cloud with lower scores turn grey; the colours of the others do not change.
const scoreSlider = (canvas, base, linked, curve, tools, element) => {
  const label = element("label", "from", tools);
  label.append("Hide scores below ");
  const slider = element("input", "", label), shown = element("output", "", label);
  Object.assign(slider, { type: "range", min: 0, max: linked.top, step: 5, value: 0, autocomplete: "off" });
  const buttons = base.updatemenus[0].buttons, byScore = linked.scores.map(([, button]) => button);
  let active = base.updatemenus[0].active ?? 0, busy = false, waiting = false;

  const rgb = (color) => color.startsWith("#")
    ? [1, 3, 5].map((i) => parseInt(color.slice(i, i + 2), 16))
    : color.match(/[\d.]+/g).slice(0, 3).map(Number);
  const colorAt = (scale, t) => {
    const upper = Math.max(1, scale.findIndex(([stop]) => stop >= t));
    const [[from, low], [to, high]] = [scale[upper - 1], scale[upper]];
    const part = (t - from) / (to - from), ends = [rgb(low), rgb(high)];
    return `rgb(${ends[0].map((v, i) => Math.round(v + part * (ends[1][i] - v)))})`;
  };
  const cut = (scale, t) => t <= 0 ? scale : [
    [0, "#8a94a0"], [t, "#8a94a0"], [t, colorAt(scale, t)], ...scale.filter(([stop]) => stop > t),
  ].concat(t >= 1 ? [[1, scale.at(-1)[1]]] : []);

  const apply = async () => {
    shown.value = `${slider.value} %`;
    if (busy) {
      waiting = true;
      return;
    }
    busy = true;
    if (!byScore.includes(active)) active = linked.lead;
    const change = { ...buttons[active].args[0] };
    change["marker.colorscale"] = [cut(change["marker.colorscale"][0], slider.value / linked.top)];
    await Plotly.update(canvas, change, { "updatemenus[0].active": active }, [curve]);
    busy = false;
    if (waiting) {
      waiting = false;
      apply();
    }
  };
  slider.addEventListener("input", apply);
  shown.value = "0 %";
  canvas.on("plotly_buttonclicked", (event) => {
    active = event.menu.buttons.findIndex((button) => button.label === event.button.label);
    if (byScore.includes(active) && Number(slider.value)) apply();
    if (!byScore.includes(active)) [slider.value, shown.value] = [0, "0 %"];
  });
};
