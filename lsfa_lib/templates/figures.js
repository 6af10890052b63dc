// Draws every figure of the page from the JSON beside it, those near the window first.
(async () => {
  const packed = document.getElementById("plotly-gzip");
  if (packed) {
    const bytes = Uint8Array.from(atob(packed.textContent.trim()), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
  }
  const canvases = [...document.querySelectorAll(".plot .canvas")];
  if (!window.Plotly) {
    for (const canvas of canvases) {
      canvas.style.height = "auto";
      canvas.append("The figure needs plotly.min.js, which lies in the reports folder: keep the " +
        "folder together, or write this page with plotly=\"inline\".");
    }
    return;
  }

  const dark = matchMedia("(prefers-color-scheme: dark)");
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const config = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d"] };

  const set = (layout, path, value) => {
    const keys = path.replace(/\[(\d+)\]/g, ".$1").split(".");
    const last = keys.pop();
    keys.reduce((at, key) => (at[key] ??= {}), layout)[last] = value;
  };

  // Coordinates travel as 16-bit steps; the figure shows millimetres.
  const unpack = (trace) => {
    if (!trace.meta?.step) return trace;
    for (const axis of ["x", "y", "z"]) {
      const bytes = Uint8Array.from(atob(trace[axis].bdata), (c) => c.charCodeAt(0));
      trace[axis] = Float32Array.from(new Int16Array(bytes.buffer), (v) => v * trace.meta.step);
    }
    return trace;
  };

  const layoutFor = (canvas, base) => {
    const layout = structuredClone(base);
    if (canvas.clientWidth < 640) {
      for (const [path, value] of Object.entries(layout.meta?.narrow ?? {})) set(layout, path, value);
    }
    canvas.style.height = `${layout.height ?? layout.template?.layout?.height ?? 380}px`;
    set(layout, "paper_bgcolor", "rgba(0,0,0,0)");
    set(layout, "plot_bgcolor", "rgba(0,0,0,0)");
    set(layout, "font.color", color("--ink"));
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

  const drawn = new Map();
  const draw = (canvas) => {
    if (drawn.has(canvas)) return;
    const figure = JSON.parse(canvas.querySelector("script").textContent);
    drawn.set(canvas, { base: figure.layout, narrow: canvas.clientWidth < 640 });
    Plotly.newPlot(canvas, figure.data.map(unpack), layoutFor(canvas, figure.layout), config);
  };
  const redraw = (canvas) => {
    const state = drawn.get(canvas);
    state.narrow = canvas.clientWidth < 640;
    Plotly.react(canvas, canvas.data, layoutFor(canvas, state.base), config);
  };

  const near = new IntersectionObserver(
    (entries) => entries.filter((e) => e.isIntersecting).forEach((e) => draw(e.target)),
    { rootMargin: "600px" },
  );
  canvases.forEach((canvas) => near.observe(canvas));
  // The others follow one by one while the top is read: nothing is blank when one scrolls or prints.
  const idle = window.requestIdleCallback ?? ((then) => setTimeout(then, 50));
  const drawNext = () => {
    const next = canvases.find((canvas) => !drawn.has(canvas));
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
