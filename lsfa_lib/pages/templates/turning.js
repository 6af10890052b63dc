// The turning cloud of the gallery's first screen, drawn on a plain canvas: no 3D library is loaded.
(() => {
  const figure = document.querySelector(".turning");
  if (!figure) return;
  const { points, photo, score } = JSON.parse(figure.querySelector("script").textContent);
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const xyz = new Int16Array(bytes(points).buffer), colors = { score: bytes(score), photo: bytes(photo) };
  const count = xyz.length / 3, order = Array.from({ length: count }, (_, i) => i);
  const canvas = figure.querySelector("canvas"), button = figure.querySelector("button");
  const brush = canvas.getContext("2d"), depth = new Float32Array(count);
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  let shown = "score", turn = 0.5, held = null, seen = true, before = 0;

  const draw = () => {
    const sharp = Math.min(2, devicePixelRatio), width = canvas.clientWidth, height = canvas.clientHeight;
    if (canvas.width !== width * sharp) Object.assign(canvas, { width: width * sharp, height: height * sharp });
    brush.setTransform(sharp, 0, 0, sharp, 0, 0);
    brush.clearRect(0, 0, width, height);
    // Turned about the vertical, then tipped so that one looks down on the part.
    const cos = Math.cos(turn), sin = Math.sin(turn), up = 0.62, down = 0.78;
    const scale = Math.min(width / 2150, height / 1750), across = new Float32Array(count), along = new Float32Array(count);
    for (let i = 0; i < count; i++) {
      const x = xyz[3 * i], y = xyz[3 * i + 1], z = xyz[3 * i + 2];
      const u = cos * x - sin * y, v = sin * x + cos * y;
      across[i] = width / 2 + scale * u;
      along[i] = height / 2 - scale * (up * v + down * z);
      depth[i] = up * z - down * v;
    }
    order.sort((a, b) => depth[a] - depth[b]);
    const rgb = colors[shown], size = Math.max(2.2, 62 * scale);
    for (const i of order) {
      brush.fillStyle = `rgb(${rgb[3 * i]},${rgb[3 * i + 1]},${rgb[3 * i + 2]})`;
      brush.fillRect(across[i] - size / 2, along[i] - size / 2, size, size);
    }
  };
  const step = (now) => {
    if (seen && held === null) {
      turn += Math.min(50, now - before) * 0.0005;
      draw();
    }
    before = now;
    requestAnimationFrame(step);
  };
  canvas.addEventListener("pointerdown", (event) => {
    held = event.clientX;
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (held === null) return;
    turn += (event.clientX - held) * 0.01;
    held = event.clientX;
    draw();
  });
  for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => { held = null; });
  button.addEventListener("click", () => {
    shown = shown === "score" ? "photo" : "score";
    button.textContent = shown;
    button.setAttribute("aria-pressed", shown === "score");
    draw();
  });
  new IntersectionObserver((entries) => { seen = entries.at(-1).isIntersecting; }).observe(canvas);
  addEventListener("resize", draw);
  draw();
  if (!still) requestAnimationFrame(step);
})();
