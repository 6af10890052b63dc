// Draws the figures of the page from their embedded JSON, those near the window first.
(async () => {
  const text = (element) => {
    if (element.type !== "text/gzip") return element.textContent;
    const bytes = Uint8Array.from(atob(element.textContent.trim()), (c) => c.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  };
  const plotly = document.getElementById("plotly-gzip");
  if (plotly) {
    const script = document.createElement("script");
    script.textContent = await text(plotly);
    document.head.append(script);
  }
  const canvases = [...document.querySelectorAll(".plot .canvas")];
  if (!window.Plotly) {
    for (const canvas of canvases) {
      canvas.style.height = "auto";
      canvas.append("This figure needs plotly.min.js from the reports folder: move the folder as a " +
        "whole, or save this page with lsfa report RUN --out FILE.");
    }
    return;
  }

  const dark = matchMedia("(prefers-color-scheme: dark)");
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const touch = matchMedia("(hover: none)").matches;
  const config = {
    responsive: true,
    displaylogo: false,
    modeBarButtonsToRemove: ["select2d", "lasso2d"],
  };
  // The tools are for clouds. Elsewhere they cover the legend, on a narrow page the menus, and
  // without a hovering pointer they would never go away.
  const configFor = (canvas, layout) => touch || !layout.scene || canvas.clientWidth < 640
    ? { ...config, displayModeBar: false } : config;

  const set = (layout, path, value) => {
    const keys = path.replace(/\[(\d+)\]/g, ".$1").split(".");
    const last = keys.pop();
    keys.reduce((at, key) => (at[key] ??= {}), layout)[last] = value;
  };

  // Coordinates are stored as 16-bit steps; the figure shows millimetres.
  const unpack = (trace) => {
    if (!trace.meta?.step) return trace;
    for (const axis of ["x", "y", "z"]) {
      const bytes = Uint8Array.from(atob(trace[axis].bdata), (c) => c.charCodeAt(0));
      trace[axis] = Float32Array.from(new Int16Array(bytes.buffer), (v) => v * trace.meta.step);
    }
    return trace;
  };

  // Plotly cuts the title of a narrow axis at the edges of the figure, and turns its numbers.
  const fitAxis = (axis, width) => {
    const [start, end] = axis.domain ?? [0, 1], room = (end - start) * (width - 140);
    if (room < 120) Object.assign(axis, { nticks: Math.min(axis.nticks || 4, 4), tickangle: 0 });
    const words = axis.title?.text?.split(" ") ?? [], whole = words.join(" ").length;
    if (whole * 8 <= room || words.length < 2) return;
    const half = words.findIndex((_, i) => words.slice(0, i + 1).join(" ").length >= whole / 2);
    const first = Math.min(half + 1, words.length - 1);
    axis.title.text = `${words.slice(0, first).join(" ")}<br>${words.slice(first).join(" ")}`;
    axis.title.font = { ...axis.title.font, size: 12 };
    axis.automargin = true;
  };

  const layoutFor = (canvas, base) => {
    const layout = structuredClone(base);
    if (canvas.clientWidth < 640) {
      for (const [path, value] of Object.entries(layout.meta?.narrow ?? {})) set(layout, path, value);
      for (const name of Object.keys(layout)) if (/^xaxis\d*$/.test(name)) fitAxis(layout[name], canvas.clientWidth);
    }
    canvas.style.height = `${layout.height ?? layout.template?.layout?.height ?? 380}px`;
    set(layout, "paper_bgcolor", "rgba(0,0,0,0)");
    set(layout, "plot_bgcolor", "rgba(0,0,0,0)");
    set(layout, "font.color", color("--ink"));
    if (layout.meta?.linked) {
      // linked.js shows more about a point than a label would.
      layout.scene.hovermode = false;
      // A finger on an image scrolls the page or points; it does not zoom.
      if (touch) layout.dragmode = false;
    }
    layout.modebar = { bgcolor: "rgba(0,0,0,0)", color: color("--axis"), activecolor: color("--ink") };
    for (const axis of ["xaxis", "yaxis"]) {
      set(layout, `template.layout.${axis}.gridcolor`, color("--grid"));
      set(layout, `template.layout.${axis}.linecolor`, color("--axis"));
      set(layout, `template.layout.${axis}.tickcolor`, color("--axis"));
    }
    if (layout.scene) {
      for (const axis of ["xaxis", "yaxis", "zaxis"]) set(layout, `scene.${axis}.gridcolor`, color("--line"));
    }
    return layout;
  };

  // Opens a test scan of the strip by its name.
  let openScan = () => false;
  const drawn = new Map();
  const clouds = () => [...drawn.keys()].filter((canvas) => drawn.get(canvas).base?.scene);
  const away = (canvas) => {
    const box = canvas.getBoundingClientRect();
    return Math.max(box.top - innerHeight, -box.bottom);
  };
  // Browsers keep few 3D views alive, phones about eight: the farthest one is removed.
  const mostClouds = 7;
  const makeRoom = () => {
    const there = clouds().sort((a, b) => away(b) - away(a));
    for (const canvas of there.slice(0, Math.max(0, there.length - mostClouds))) {
      drawn.get(canvas).unlink?.();
      drawn.delete(canvas);
      Plotly.purge(canvas);
    }
  };
  const draw = async (canvas) => {
    if (drawn.has(canvas)) return;
    const state = { base: null, narrow: false };
    drawn.set(canvas, state);
    const { data, layout } = JSON.parse(await text(canvas.querySelector("script")));
    if (layout.meta?.strip) {
      const figure = canvas.closest(".plot"), { strip } = layout.meta;
      delete layout.meta.strip;
      // One after the other, however fast one clicks.
      let before = Promise.resolve();
      const open = (view, caption) => {
        before = before.then(() => paint(canvas, state, withScan(data, layout, view, strip.lead), caption));
        return before;
      };
      figure.strip ??= scanStrip(figure, strip, (...chosen) => {
        figure.strip.shown = chosen;
        if (drawn.has(canvas)) figure.strip.open(...chosen);
        figure.scrollIntoView({ block: "nearest" });
      });
      Object.assign(figure.strip, { open });
      openScan = figure.strip.named;
      await open(...(figure.strip.shown ?? figure.strip.first));
    } else {
      await paint(canvas, state, { traces: data, layout });
    }
  };
  const paint = async (canvas, state, { traces, layout }, caption) => {
    state.unlink?.();
    if (state.base) Plotly.purge(canvas);
    Object.assign(state, { base: layout, narrow: canvas.clientWidth < 640 });
    if (layout.scene) makeRoom();
    if (caption) {
      const title = canvas.closest(".plot").querySelector("figcaption"), strong = document.createElement("b");
      strong.textContent = caption[0];
      title.replaceChildren(strong, caption[1]);
    }
    await Plotly.newPlot(canvas, traces.map(unpack), layoutFor(canvas, layout), configFor(canvas, layout));
    state.unlink = linkScan(canvas, layout);
    // A dot that stands for a test scan opens it.
    canvas.on("plotly_click", ({ points }) => openScan(points[0].text));
  };
  const redraw = (canvas) => {
    const state = drawn.get(canvas), narrow = canvas.clientWidth < 640;
    if (!state.base) return;
    const layout = layoutFor(canvas, state.base), now = canvas.layout;
    layout.updatemenus?.forEach((menu, i) => { menu.active = now.updatemenus[i].active; });
    // A menu of scans has changed what stands above the images.
    if (layout.meta?.menus) layout.annotations.forEach((note, i) => { note.text = now.annotations[i].text; });
    if (layout.scene && narrow === state.narrow) layout.scene.camera = now.scene.camera;
    state.narrow = narrow;
    Plotly.react(canvas, canvas.data, layout, configFor(canvas, layout));
  };

  const near = new IntersectionObserver(
    (entries) => entries.filter((e) => e.isIntersecting).forEach((e) => draw(e.target)),
    { rootMargin: "600px" },
  );
  canvases.forEach((canvas) => near.observe(canvas));
  // The others follow while the page is idle, so that nothing is blank when it is scrolled or printed.
  const idle = window.requestIdleCallback ?? ((then) => setTimeout(then, 50));
  const drawNext = () => {
    const room = clouds().length < mostClouds;
    const next = canvases.find((c) => !drawn.has(c) && (room || c.closest(".plot").matches(".small")));
    if (next) {
      draw(next);
      idle(drawNext);
    }
  };
  idle(drawNext);
  dark.addEventListener("change", () => [...drawn.keys()].forEach(redraw));
  addEventListener("resize", () => {
    for (const [canvas, state] of drawn) {
      if (state.narrow !== canvas.clientWidth < 640) redraw(canvas);
    }
  });
})();
