"use strict";
/* Puts the parts together. Whatever comes from the model is set as text, never as HTML. */
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);

  const element = (tag, attributes = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "onclick") made.addEventListener("click", value);
      else made.setAttribute(name, value);
    }
    made.append(...children);
    return made;
  };

  /** Leave out what all names begin with, and let a name break behind a slash. */
  const short = (text) => (data.prefix ? text.replaceAll(data.prefix, "…/") : text);
  const breakable = (text) => text.split(/(?<=[^…]\/)/).flatMap((part) => [part, element("wbr")]);

  const MOST = 12; // names in a list of the panel
  const list = (title, names) => {
    if (!names.length) return [];
    const more = names.length > MOST ? [element("li", {}, `and ${names.length - MOST} more`)] : [];
    return [element("h4", {}, title), element("ul", {}, ...names.slice(0, MOST).map((name) => element("li", { title: name }, ...breakable(short(name)))), ...more)];
  };

  const buttons = (title, sites) =>
    sites.length
      ? [element("h4", {}, title), element("p", {}, ...sites.slice(0, MOST).map((site) =>
          element("button", { class: `site ${site.status}`, onclick: () => view.chooseSite(site) }, ...breakable(short(site.name)))))]
      : [];

  function describe(choice) {
    const panel = byId("panel");
    if (!choice) return panel.replaceChildren(byId("hint").content.cloneNode(true));
    if (choice.note) return panel.replaceChildren(element("p", {}, choice.note));
    if (choice.site) {
      const { site } = choice;
      return panel.replaceChildren(element("h3", { class: site.status }, ...breakable(site.name)),
        ...(site.function ? [element("p", {}, `In function ${site.function}.`)] : []), ...site.facts.map((fact) => element("p", {}, ...breakable(short(fact)))));
    }
    const [name, op, fn, , survives] = choice.op;
    return panel.replaceChildren(
      element("h3", {}, ...breakable(name)),
      element("p", {}, `${op}${fn ? `, in function ${fn}` : ""}`),
      ...buttons("Took", choice.took),
      ...buttons("Was passed by", choice.passed),
      ...buttons("Stopped", choice.stopped),
      ...list("Reads", choice.inputs),
      ...list("Read by", choice.readers),
      element("p", {}, survives ? "The folded graph has a node of this name, with the same value." : "The folded graph has no node of this name."),
    );
  }

  const view = GraphView.show(byId("graph"), byId("printed"), data, describe);
  describe(null);
  for (const name of ["fit", "home", "zoomIn", "zoomOut"]) byId(name).addEventListener("click", () => view[name]());

  // Search: batch norms first, then all other ops.
  const order = [...data.ops.keys()];
  const isSite = new Set(data.sites.flatMap((site) => site.nodes));
  order.sort((a, b) => isSite.has(b) - isSite.has(a) || a - b);
  const found = byId("found");
  const choose = (number) => {
    found.replaceChildren();
    view.chooseOp(number);
  };
  const matching = (text) => order.filter((number) => `${data.ops[number][0]} ${data.ops[number][1]}`.toLowerCase().includes(text));
  byId("search").addEventListener("input", (event) => {
    const text = event.target.value.trim().toLowerCase();
    const numbers = text ? matching(text) : [];
    found.replaceChildren(...numbers.slice(0, MOST).map((number) =>
      element("button", { type: "button", onclick: () => choose(number) }, ...breakable(short(data.ops[number][0])), element("small", {}, ` ${data.ops[number][1]}`))));
    if (text && !numbers.length) found.append(element("p", {}, "No op of that name."));
    if (numbers.length > MOST) found.append(element("p", {}, `and ${numbers.length - MOST} more`));
  });
  byId("search").addEventListener("keydown", (event) => {
    const text = event.target.value.trim().toLowerCase();
    if (event.key === "Enter" && text) {
      const [first] = matching(text);
      if (first !== undefined) choose(first);
    } else if (event.key === "Escape") {
      event.target.value = "";
      found.replaceChildren();
      view.clear();
    }
  });

  // The table of all: filtered by text and by what became of each; long ones are cut until asked for.
  const ROWS = 100;
  const rows = [...byId("sites").tBodies[0].rows];
  const texts = rows.map((row, number) => `${row.textContent} ${data.sites[number].facts.join(" ")} ${data.sites[number].name}`.toLowerCase());
  let all = false;
  function filter() {
    const text = byId("filter").value.trim().toLowerCase();
    const status = byId("status").value;
    const kind = byId("kind").value;
    let fitting = 0;
    rows.forEach((row, number) => {
      const fits = texts[number].includes(text) && (!status || row.dataset.status === status) && (!kind || row.dataset.kind === kind);
      fitting += fits;
      row.hidden = !fits || (!all && fitting > ROWS);
    });
    byId("count").textContent = `${fitting.toLocaleString("en")} of ${rows.length.toLocaleString("en")}`;
    byId("more").hidden = all || fitting <= ROWS;
  }
  for (const name of ["filter", "status", "kind"]) byId(name).addEventListener("input", filter);
  byId("more").addEventListener("click", () => {
    all = true;
    filter();
  });
  rows.forEach((row, number) => {
    row.querySelector("button").addEventListener("click", () => {
      byId("picture").scrollIntoView({ behavior: "smooth" });
      view.chooseSite(data.sites[number]);
    });
  });
  filter();

  // Plots are drawn anew when the width changes, so that their text keeps its size.
  const FIT = 560;
  function plot() {
    const wide = byId("plots").clientWidth;
    const width = wide < 2 * FIT ? Math.min(wide, 620) : Math.floor((wide - 24) / 2);
    byId("plots").replaceChildren(...data.sinks.map((sink) => element("figure", { style: `width:${width}px` },
      element("figcaption", {}, element("strong", { title: sink.name }, ...breakable(short(sink.name))), ` ${sink.op}: largest to median ${sink.before} → `,
        element("strong", { class: sink.warn ? "kept" : "" }, `${sink.after}`)),
      Plots.ranges(sink, width), element("p", { class: sink.warn ? "warn" : "" }, sink.advice))));
    byId("errors").replaceChildren(...data.errors.map((measurement) => element("figure", {},
      element("figcaption", {}, element("strong", {}, measurement.compared), `: ${measurement.tensors.toLocaleString("en")} tensors`,
        measurement.points.length < measurement.tensors ? `, the worst of each ${Math.ceil(measurement.tensors / measurement.points.length)}` : ""),
      Plots.errors(measurement, Math.min(byId("errors").clientWidth, 960)))));
  }
  let drawn = 0;
  new ResizeObserver(([entry]) => {
    if (Math.abs(entry.contentRect.width - drawn) < 2) return;
    drawn = entry.contentRect.width;
    plot();
  }).observe(byId("main"));

  window.tfBnfold = { view, data }; // for tests and the curious
})();
