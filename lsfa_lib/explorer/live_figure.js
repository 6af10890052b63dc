// anywidget fails to initialise a widget whose module takes more than two seconds to load, as
// plotly.js does on a busy machine. This small module requests plotly.js from the kernel, loads it
// once for all figures of the page, and queues updates until the figure is drawn.
const MESSAGES = [
  "addTraces", "deleteTraces", "moveTraces", "restyle", "relayout", "update", "animate",
  "removeLayoutProps", "removeTraceProps",
].map((name) => `_py2js_${name}`);

function plotly(model) {
  if (globalThis.lsfaPlotly) return globalThis.lsfaPlotly;
  return new Promise((resolve) => {
    model.on("msg:custom", (_, buffers) => {
      const blob = new Blob(buffers, { type: "text/javascript" });
      resolve((globalThis.lsfaPlotly ??= import(URL.createObjectURL(blob))));
    });
    model.send("plotly");
  });
}

export default () => {
  const early = [];
  let drawn = false;
  return {
    initialize({ model }) {
      for (const name of MESSAGES) {
        model.on(`change:${name}`, () => drawn || early.push([name, model.get(name)]));
      }
    },
    async render({ model, el }) {
      const { default: widget } = await plotly(model);
      const handlers = {};
      let sent = {}; // the queued update that is being replayed
      const figure = widget();
      figure.initialize({
        model: {
          get: (name) => (name in sent ? sent[name] : model.get(name)),
          set: (name, value) => model.set(name, value),
          save_changes: () => model.save_changes(),
          on(event, act) {
            (handlers[event] ??= []).push(act);
            model.on(event, act);
          },
        },
      });
      const remove = figure.render({ model, el });
      drawn = true;
      for (const [name, value] of early) {
        sent = { [name]: value };
        handlers[`change:${name}`].forEach((act) => act());
      }
      sent = {};
      return remove;
    },
  };
};
