// anywidget drops a widget whose module is not there after two seconds, and plotly.js, sent with
// each figure, takes longer on a busy machine. This module is there at once. It asks the kernel for
// plotly.js, loads it once for all figures of the page, and keeps what is sent until it is there.
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
      let sent = {};
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
