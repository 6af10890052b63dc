// Filters, sorts and compares the runs of the gallery; the address holds what is chosen.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const form = document.getElementById("tools"), field = form.elements;
  const list = document.querySelector(".cards"), metrics = Object.keys(data.metrics);
  const cards = [...list.children];
  const runs = data.runs.map((run, order) => ({ ...run, order, card: cards[order] }));
  const chosen = () => Object.fromEntries(new FormData(form));
  const initial = chosen();
  const FIRST = 24, more = document.querySelector(".more");
  let ticked = [], all = false;

  const three = (value) => value == null ? "–" : value.toFixed(3);
  const valueOf = (run, mode, metric) => run.values[mode]?.[metrics.indexOf(metric)] ?? null;
  const intervalOf = (run, mode, metric) => {
    const bounds = run.values[mode]?.slice(metrics.length) ?? [];
    return metric === metrics[0] && bounds[0] != null ? `[${bounds.map(three).join(", ")}]` : "";
  };
  const add = (parent, name, text, className = "") => {
    const made = document.createElement(name);
    made.textContent = text;
    made.className = className;
    parent.append(made);
  };

  // ---- the cards
  const fill = (run, mode, metric) => {
    const label = data.metrics[metric];
    run.card.querySelector(".number b").textContent = three(valueOf(run, mode, metric));
    run.card.querySelector(".number small").textContent =
      `${label}, ${data.modes[mode]} ${intervalOf(run, mode, metric)}`.trim();
    run.card.querySelector("caption").textContent = `${label} by modality`;
    const best = Math.max(...Object.keys(run.values).map((own) => valueOf(run, own, metric) ?? -1));
    for (const row of run.card.querySelectorAll("[data-mode]")) {
      const value = valueOf(run, row.dataset.mode, metric);
      row.classList.toggle("chosen", row.dataset.mode === mode);
      row.querySelector("i").style.setProperty("--value", value ?? 0);
      row.lastElementChild.textContent = three(value);
      row.lastElementChild.classList.toggle("best", value != null && three(value) === three(best));
    }
  };

  const fits = (run, { text, mode, category, preset, study, from, to }) => {
    const day = run.created.slice(0, 10);
    return text.toLowerCase().split(/\s+/).every((word) => run.text.includes(word))
      && mode in run.values && (!category || run.category === category)
      && (!preset || run.preset === preset) && (!study || run.studies.includes(study))
      && (!from || day >= from) && (!to || day <= to);
  };

  const orders = {
    category: () => 0,
    newest: (a, b) => b.created.localeCompare(a.created),
    best: (a, b, { mode, metric }) => (valueOf(b, mode, metric) ?? -1) - (valueOf(a, mode, metric) ?? -1),
  };

  const update = () => {
    const now = chosen(), { mode, metric } = now;
    const shown = runs.filter((run) => fits(run, now));
    shown.sort((a, b) => orders[now.sort](a, b, now) || a.order - b.order);
    runs.forEach((run) => { run.card.hidden = true; });
    const listed = all ? shown : shown.slice(0, FIRST);
    more.hidden = listed.length === shown.length;
    more.firstElementChild.textContent = `Show all ${shown.length} runs`;
    for (const run of listed) {
      run.card.hidden = false;
      fill(run, mode, metric);
      list.append(run.card);
    }
    const lacking = runs.filter((run) => !(mode in run.values)).length;
    const without = lacking ? ` (${lacking} ${lacking === 1 ? "does" : "do"} not compute this score)` : "";
    document.getElementById("shown").value = shown.length < runs.length
      ? `${shown.length} of ${runs.length} runs${without}` : `${runs.length} ${runs.length === 1 ? "run" : "runs"}`;
    document.querySelector(".none").hidden = shown.length > 0;
    const filters = [now.category, now.preset, now.study, now.from, now.to].filter(Boolean);
    document.getElementById("filtered").textContent = filters.length ? `: ${filters.join(", ")}` : "";
    document.getElementById("means-metric").value = metric;
    document.querySelectorAll("[data-metric]").forEach((panel) => { panel.hidden = panel.dataset.metric !== metric; });
    document.querySelectorAll("[data-study]").forEach((study) => {
      study.classList.toggle("chosen", study.dataset.study === now.study);
    });
  };

  // ---- two runs side by side
  const dialog = document.getElementById("compare"), bar = document.getElementById("ticked");
  const tick = () => {
    runs.forEach((run) => { run.card.querySelector(".tick input").checked = ticked.includes(run); });
    bar.hidden = ticked.length !== 1;
    if (!bar.hidden) {
      const name = ticked[0].card.querySelector(".tick .unseen").textContent.trim();
      bar.firstElementChild.textContent = `${name}: tick another run to compare.`;
    }
    if (ticked.length === 2 && !dialog.open) {
      compare();
      dialog.showModal();
      dialog.scrollTop = 0;
    }
  };

  const side = (run, letter) => {
    const made = document.createElement("section");
    run.card.querySelectorAll("img, h3, .about, .links").forEach((part) => made.append(part.cloneNode(true)));
    made.querySelector("h3").prepend(`${letter}: `);
    made.querySelector(".tick").remove();
    return made;
  };

  const compare = () => {
    const [a, b] = ticked;
    dialog.querySelector(".sides").replaceChildren(side(a, "A"), side(b, "B"));
    for (const row of dialog.querySelectorAll(".compared [data-of]")) {
      const { of: metric, in: mode } = row.dataset;
      const [one, other] = ticked.map((run) => valueOf(run, mode, metric));
      const gain = one == null || other == null ? null : Number(three(other)) - Number(three(one));
      row.hidden = !(mode in a.values || mode in b.values);
      ticked.forEach((run, i) => {
        const cell = row.cells[i + 1];
        cell.className = gain && (gain > 0) === (i === 1) ? "best" : "";
        cell.replaceChildren();
        add(cell, "span", three(valueOf(run, mode, metric)), "value");
        const bounds = intervalOf(run, mode, metric);
        if (bounds) add(cell, "small", bounds, "interval");
      });
      row.cells[3].textContent = gain == null ? "–" : `${gain > 0 ? "+" : ""}${gain.toFixed(3)}`.replace("-", "−");
    }
    const differing = data.settings.map((name, i) => [name, a.settings[i], b.settings[i]])
      .filter(([, one, other]) => one !== other);
    const settings = dialog.querySelector(".settings");
    settings.replaceChildren();
    for (const [name, ...values] of differing.length ? differing : [["nothing", "equal settings", "equal settings"]]) {
      const row = settings.insertRow();
      // Long names may break after a dot or an underscore.
      add(row, "th", name.replace(/[._]/g, "$&\u200b"));
      values.forEach((text) => add(row, "td", text));
    }
  };

  // ---- the address
  const write = () => {
    const changed = Object.entries(chosen()).filter(([name, value]) => value !== initial[name]);
    if (ticked.length) changed.push(["compare", ticked.map((run) => run.place).join("|")]);
    const address = new URLSearchParams(changed);
    history.replaceState(null, "", changed.length ? `#${address}` : location.pathname + location.search);
  };
  const read = () => {
    const asked = new URLSearchParams(location.hash.slice(1));
    for (const name of Object.keys(initial)) {
      field[name].value = asked.get(name) ?? initial[name];
      // A choice this gallery does not have leaves a select empty.
      if (field[name].selectedIndex === -1) field[name].value = initial[name];
    }
    const places = (asked.get("compare") ?? "").split("|");
    ticked = places.map((place) => runs.find((run) => run.place === place)).filter(Boolean).slice(0, 2);
    update();
    tick();
  };

  const change = () => {
    update();
    write();
  };
  const choose = (now) => {
    ticked = now;
    tick();
    write();
  };
  form.addEventListener("input", change);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(change));
  more.firstElementChild.addEventListener("click", () => {
    all = true;
    update();
  });
  document.getElementById("means-metric").addEventListener("change", (event) => {
    field.metric.value = event.target.value;
    change();
  });
  runs.forEach((run) => run.card.querySelector(".tick input").addEventListener("change", (event) => {
    choose(event.target.checked ? [...ticked, run].slice(-2) : ticked.filter((other) => other !== run));
  }));
  bar.querySelector("button").addEventListener("click", () => choose([]));
  // The first run stays ticked: it can be compared with the next one.
  dialog.addEventListener("close", () => choose(ticked.slice(0, 1)));
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
