export default { render({ model, el }) {
  const report = () => requestAnimationFrame(() => {
    if (!el.clientWidth) return;
    window.dispatchEvent(new Event("resize"));
    model.set("width", el.clientWidth);
    model.save_changes();
  });
  const observer = new ResizeObserver(report);
  observer.observe(el);
  document.addEventListener("plotlywidget-after-render", report);
  return () => {
    observer.disconnect();
    document.removeEventListener("plotlywidget-after-render", report);
  };
} };
