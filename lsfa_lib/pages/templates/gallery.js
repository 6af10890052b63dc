// Filters, sorts and compares the runs of the gallery; what is chosen stands in the address.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const form = document.getElementById("tools"), field = form.elements;
  const list = document.querySelector(".cards");
  const labels = Object.fromEntries(Object.entries(data.metrics).map(([label, key]) => [key, label]));
  const metrics = Object.keys(labels), intervalAt = metrics.length;
  const runs = data.runs.map((run, i) => ({ ...run, order: i, card: list.children[i] }));
  const byPlace = new Map(runs.map((run) => [run.place, run]));
  const names = ["text", "metric", "mode", "sort", "category", "preset", "study", "from", "to"];
  const usual = Object.fromEntries(names.map((name) => [name, field[name]?.value ?? ""]));
  let ticked = [];

  const three = (value) => value == null ? "–" : value.toFixed(3);
  const valueOf = (run, mode, metric) => run.values[mode]?.[metrics.indexOf(metric)] ?? null;
  const intervalOf = (run, mode, metric) => {
    const bounds = run.values[mode]?.slice(intervalAt) ?? [];
    return metric === metrics[0] && bounds[0] != null ? `[${bounds.map(three).join(", ")}]` : "";
  };
  const make = (name, text = "", className = "") => {
    const made = document.createElement(name);
    if (text) made.textContent = text;
    if (className) made.className = className;
    return made;
  };

  // ---- the cards
  const number = (run) => {
    const metric = field.metric.value, mode = field.mode.value;
    run.card.querySelector(".number b").textContent = three(valueOf(run, mode, metric));
    run.card.querySelector(".number small").textContent =
      [`${labels[metric]}, ${data.modes[mode]}`, intervalOf(run, mode, metric)].filter(Boolean).join(" ");
    run.card.querySelector("caption").textContent = `${labels[metric]} by modality`;
    const values = Object.keys(run.values).map((own) => valueOf(run, own, metric));
    const best = Math.max(...values.filter((value) => value != null));
    for (const row of run.card.querySelectorAll("[data-mode]")) {
      const value = valueOf(run, row.dataset.mode, metric);
      row.classList.toggle("chosen", row.dataset.mode === mode);
      row.querySelector("i").style.setProperty("--value", value ?? 0);
      row.lastElementChild.textContent = three(value);
      row.lastElementChild.classList.toggle("best", value != null && three(value) === three(best));
    }
  };

  const fits = (run) => {
    const words = field.text.value.toLowerCase().split(/\s+/).filter(Boolean);
    const day = run.created.slice(0, 10);
    return words.every((word) => run.text.includes(word)) && field.mode.value in run.values
      && (!field.category.value || run.category === field.category.value)
      && (!field.preset.value || run.preset === field.preset.value)
      && (!field.study?.value || run.studies.includes(field.study.value))
      && (!field.from.value || day >= field.from.value) && (!field.to.value || day <= field.to.value);
  };

  const orders = {
    category: (a, b) => a.order - b.order,
    newest: (a, b) => b.created.localeCompare(a.created),
    best: (a, b) => {
      const [one, other] = [a, b].map((run) => valueOf(run, field.mode.value, field.metric.value) ?? -1);
      return other - one;
    },
  };

  const update = () => {
    const shown = runs.filter(fits).sort((a, b) => orders[field.sort.value](a, b) || a.order - b.order);
    runs.forEach((run) => { run.card.hidden = true; });
    for (const run of shown) {
      run.card.hidden = false;
      number(run);
      list.append(run.card);
    }
    const lacking = runs.filter((run) => !(field.mode.value in run.values)).length;
    const without = lacking ? `; ${lacking} ${lacking === 1 ? "has" : "have"} no ${data.modes[field.mode.value]}` : "";
    document.getElementById("shown").value = shown.length < runs.length
      ? `${shown.length} of ${runs.length} runs${without}` : `${runs.length} ${runs.length === 1 ? "run" : "runs"}`;
    document.querySelector(".none").hidden = shown.length > 0;
    const filters = ["category", "preset", "study", "from", "to"].map((name) => field[name]?.value).filter(Boolean);
    document.getElementById("filtered").textContent = filters.length ? `: ${filters.join(", ")}` : "";
    document.getElementById("means-metric").value = field.metric.value;
    document.querySelectorAll("[data-metric]").forEach((panel) => {
      panel.hidden = panel.dataset.metric !== field.metric.value;
    });
    document.querySelectorAll("[data-study]").forEach((study) => {
      study.classList.toggle("chosen", study.dataset.study === field.study?.value);
    });
  };

  // ---- two runs side by side
  const dialog = document.getElementById("compare"), bar = document.getElementById("ticked");
  const titleOf = (run) => `${run.category}, ${run.about}`;
  const tick = () => {
    runs.forEach((run) => { run.card.querySelector(".tick input").checked = ticked.includes(run); });
    bar.hidden = ticked.length !== 1;
    bar.firstElementChild.textContent = ticked.length === 1 ? `${titleOf(ticked[0])}: tick another run to compare.` : "";
    if (ticked.length === 2 && !dialog.open) {
      compare();
      dialog.showModal();
      dialog.scrollTop = 0;
    }
  };

  const side = (run, letter) => {
    const made = make("section"), picture = run.card.querySelector("img");
    if (picture) made.append(Object.assign(make("img"), { src: picture.src, alt: "" }));
    made.append(make("h3", `${letter}: ${run.category}`), make("p", run.about));
    const links = make("p", "", "links");
    for (const link of run.card.querySelectorAll(".links a")) links.append(link.cloneNode(true), " ");
    made.append(links);
    return made;
  };

  const compare = () => {
    const [a, b] = ticked;
    dialog.querySelector(".sides").replaceChildren(side(a, "A"), side(b, "B"));
    const table = dialog.querySelector(".compared"), head = make("tr");
    ["", "A", "B", "B − A"].forEach((text) => head.append(Object.assign(make("th", text), { scope: "col" })));
    table.tHead.replaceChildren(head);
    table.querySelectorAll("tbody").forEach((body) => body.remove());
    for (const metric of metrics) {
      const body = table.createTBody(), heading = body.insertRow();
      heading.append(Object.assign(make("th", labels[metric]), { colSpan: 4, scope: "rowgroup" }));
      for (const mode of Object.keys(data.modes)) {
        if (!(mode in a.values) && !(mode in b.values)) continue;
        const row = body.insertRow(), [one, other] = [a, b].map((run) => valueOf(run, mode, metric));
        row.append(Object.assign(make("th", data.modes[mode]), { scope: "row" }));
        const gain = one == null || other == null ? null : Number(three(other)) - Number(three(one));
        [a, b].forEach((run, i) => {
          const cell = make("td", "", gain && (gain > 0) === (i === 1) ? "best" : "");
          const bounds = intervalOf(run, mode, metric);
          cell.append(make("span", three(valueOf(run, mode, metric)), "value"));
          if (bounds) cell.append(" ", make("small", bounds, "interval"));
          row.append(cell);
        });
        row.append(make("td", gain == null ? "–" : `${gain > 0 ? "+" : ""}${gain.toFixed(3)}`.replace("-", "−")));
      }
    }
    const differing = data.settings.map((name, i) => [name, a.settings[i], b.settings[i]])
      .filter(([, one, other]) => one !== other);
    const settings = dialog.querySelector(".settings");
    settings.replaceChildren();
    for (const [name, ...values] of differing.length ? differing : [["nothing", "equal settings", "equal settings"]]) {
      const row = settings.insertRow();
      // Long names may break after a dot or a line.
      row.append(Object.assign(make("th", name.replace(/[._]/g, "$&\u200b")), { scope: "row" }));
      values.forEach((text) => row.append(make("td", text)));
    }
  };

  // ---- the address
  const write = () => {
    const chosen = new URLSearchParams();
    for (const name of names) if (field[name] && field[name].value !== usual[name]) chosen.set(name, field[name].value);
    if (ticked.length) chosen.set("compare", ticked.map((run) => run.place).join("|"));
    const text = chosen.toString();
    history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
  };
  const read = () => {
    const chosen = new URLSearchParams(location.hash.slice(1));
    for (const name of names) {
      if (!field[name]) continue;
      field[name].value = chosen.get(name) ?? usual[name];
      // A choice this gallery does not have leaves a select empty.
      if (field[name].selectedIndex === -1) field[name].value = usual[name];
    }
    ticked = (chosen.get("compare") ?? "").split("|").map((place) => byPlace.get(place)).filter(Boolean).slice(0, 2);
    update();
    tick();
  };

  const change = () => {
    update();
    write();
  };
  form.addEventListener("input", change);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(change));
  document.getElementById("means-metric").addEventListener("change", (event) => {
    field.metric.value = event.target.value;
    change();
  });
  runs.forEach((run) => run.card.querySelector(".tick input").addEventListener("change", (event) => {
    ticked = event.target.checked ? [...ticked, run].slice(-2) : ticked.filter((other) => other !== run);
    tick();
    write();
  }));
  bar.querySelector("button").addEventListener("click", () => {
    ticked = [];
    tick();
    write();
  });
  // The first run stays ticked: it can be compared with the next one.
  dialog.addEventListener("close", () => {
    ticked = ticked.slice(0, 1);
    tick();
    write();
  });
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  document.querySelectorAll(".its-runs").forEach((link) => link.addEventListener("click", (event) => {
    event.preventDefault();
    form.reset();
    field.study.value = link.closest("[data-study]").dataset.study;
    change();
    document.getElementById("runs").scrollIntoView();
  }));
  addEventListener("hashchange", read);
  if (innerWidth < 700) document.querySelector(".filters").open = false;
  read();
})();
