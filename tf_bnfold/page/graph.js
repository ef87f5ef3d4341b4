"use strict";
/* The picture of the graph: name scopes that open, batch norms in the colour of what became of them, and their routes. */
const GraphView = (() => {
  const COLOURS = {
    folded_up: "#1b7837", folded_down: "#2166ac", folded_in_halves: "#762a83", partly_folded: "#b35806", kept: "#b2182b",
  };
  const MARKS = {
    folded_up: "↑ folded up", folded_down: "↓ folded down", folded_in_halves: "↕ folded in halves",
    partly_folded: "½ folded in part", kept: "✕ kept",
  };
  const PIXELS = 12e6; // of the picture on paper
  const WIDE = 24; // characters of a label
  const FEW = 36; // nodes that are seen at first
  const MOST = 200; // nodes beyond which laying them out takes more than a moment

  const STYLE = [
    { selector: "node", style: {
      shape: "round-rectangle", width: 192, height: "data(height)", label: "data(label)", "text-wrap": "wrap",
      "text-valign": "center", "text-halign": "center", "font-size": 12, "line-height": 1.25, color: "#222",
      "font-family": "system-ui, sans-serif", "background-color": "#fff", "border-width": 1, "border-color": "#999" } },
    { selector: "node.scope", style: { "background-color": "#eef1f4", "border-style": "double", "border-width": 4 } },
    { selector: "node.scope.stays", style: { "border-color": COLOURS.kept } },
    { selector: "node.scope.remains", style: { "border-color": COLOURS.partly_folded } },
    { selector: "node.open", style: {
      "background-color": "#f6f8fa", "background-opacity": 0.7, "text-valign": "top", "text-margin-y": -3,
      "border-style": "dashed", color: "#555", padding: 14, "font-size": 12 } },
    { selector: "node.sink", style: { "border-width": 3, "border-color": "#222", shape: "cut-rectangle" } },
    ...Object.entries(COLOURS).map(([status, colour]) => ({
      selector: `node.${status}`, style: { "background-color": colour, "border-color": colour, color: "#fff" } })),
    { selector: "edge", style: {
      width: 1.3, "line-color": "#b5bcc4", "target-arrow-color": "#b5bcc4", "target-arrow-shape": "triangle",
      "arrow-scale": 0.9, "curve-style": "bezier" } },
    { selector: "edge.into", style: {
      width: 2.5, "line-style": "dashed", "curve-style": "unbundled-bezier", "control-point-distances": 70,
      "control-point-weights": 0.5, "line-color": "data(colour)", "target-arrow-color": "data(colour)" } },
    { selector: ".faded", style: { opacity: 0.25 } },
    { selector: "node.chosen", style: { "border-width": 5, "border-color": "#f0a500", "border-style": "solid" } },
    { selector: "node.passed", style: { "border-width": 4, "border-color": "#f0a500", "border-style": "dashed" } },
    { selector: "edge.passed", style: { "line-color": "#f0a500", "target-arrow-color": "#f0a500", width: 3 } },
    { selector: "node.stopped", style: { "border-width": 5, "border-color": COLOURS.kept, "border-style": "dashed" } },
  ];

  const cut = (text, length) =>
    text.length <= length ? text : `${text.slice(0, Math.ceil(length / 2) - 1)}…${text.slice(-Math.floor(length / 2))}`;
  /** Shorten a label: of a leaf to its layer, as its op is shown beside it, of a scope to its innermost parts. */
  const tag = (label, isLeaf) => {
    const parts = label.split("/");
    while (parts.length > 1 && parts.join("/").length > WIDE) parts.splice(isLeaf ? -1 : 0, 1);
    return cut(parts.join("/"), WIDE);
  };
  const titles = (node) => (node.ends ? [tag(node.ends[0], true), `… ${tag(node.ends[1], true)}`] : [tag(node.label, node.leaf)]);
  const plural = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;

  /**
   * Draw a graph.
   * container: where; printed: the canvas for paper; data: see tf_bnfold/page/data.py;
   * onChoice: called with a site, an op, a note, or null.
   */
  function show(container, printed, data, onChoice) {
    const siteOf = new Map();
    const took = new Map();
    for (const site of data.sites) {
      site.nodes.forEach((number) => siteOf.set(number, site));
      site.sinks.forEach((number) => took.set(number, (took.get(number) || 0) + 1));
    }
    const root = Scopes.tree(data.ops, (number) => siteOf.get(number));
    const leaf = Scopes.leaves(root);
    const open = Scopes.opened(root, FEW);
    const readers = data.ops.map(() => []);
    data.ops.forEach(([, , , inputs], number) => inputs.forEach((input) => readers[input].push(number)));

    const cy = cytoscape({ container, style: STYLE, minZoom: 0.03, maxZoom: 3, wheelSensitivity: 0.3, boxSelectionEnabled: false });
    let chosen = null;

    const leafLabel = (node) => {
      const [number] = node.ops;
      const site = siteOf.get(number);
      const lines = [...new Set([...titles(node), node.ops.map((each) => data.ops[each][1]).join("+")])];
      if (site) lines.push(MARKS[site.status]);
      if (took.has(number)) lines.push(`took ${took.get(number)}`);
      return lines;
    };

    const scopeLabel = (node) => {
      const sites = new Set(node.ops.map((number) => siteOf.get(number)).filter(Boolean));
      const number = (status) => [...sites].filter((site) => site.status === status).length;
      const [kept, partly] = [number("kept"), number("partly_folded")];
      const lines = [...titles(node), plural(node.ops.length, "op")];
      if (sites.size - kept - partly) lines.push(`${sites.size - kept - partly} folded`);
      if (partly) lines.push(`½ ${partly} in part`);
      if (kept) lines.push(`✕ ${kept} kept`);
      lines[0] += "  +";
      return [lines, kept ? "stays" : partly ? "remains" : ""];
    };

    function elements() {
      const { nodes, place } = Scopes.visible(root, open, data.ops.length);
      const isOpen = new Map(nodes.map((each) => [each.node.id, each.isOpen]));
      const found = nodes.map(({ node, isOpen: opened }) => {
        const parent = node.parent && isOpen.get(node.parent.id) ? node.parent.id : undefined;
        if (opened) return { data: { id: node.id, parent, label: `${titles(node).join(" ")}  −`, height: 1 }, classes: "open" };
        if (node.leaf) {
          const lines = leafLabel(node);
          const site = siteOf.get(node.ops[0]);
          const classes = [site ? site.status : "", took.has(node.ops[0]) ? "sink" : ""].join(" ");
          return { data: { id: node.id, parent, label: lines.join("\n"), height: 14 + 16 * lines.length, op: node.ops[0] }, classes };
        }
        const [lines, state] = scopeLabel(node);
        return { data: { id: node.id, parent, label: lines.join("\n"), height: 16 + 16 * lines.length }, classes: `scope ${state}` };
      });
      const edges = new Set();
      data.ops.forEach(([, , , inputs], number) => inputs.forEach((input) => {
        if (place[input] !== place[number]) edges.add(`${place[input]} ${place[number]}`);
      }));
      for (const edge of edges) {
        const [source, target] = edge.split(" ");
        found.push({ data: { id: `e${edge}`, source, target } });
      }
      const routes = new Map();
      for (const site of data.sites) {
        const from = place[site.status === "folded_down" ? site.nodes[site.nodes.length - 1] : site.nodes[0]];
        for (const number of site.sinks) {
          if (from && place[number] !== from) routes.set(`${from} ${place[number]}`, site.status);
        }
      }
      for (const [route, status] of routes) {
        const [source, target] = route.split(" ");
        found.push({ data: { id: `r${route}`, source, target, colour: COLOURS[status] }, classes: "into" });
      }
      return { found, seen: nodes.length, place };
    }

    let place = [];
    function draw() {
      const drawn = elements();
      place = drawn.place;
      cy.batch(() => {
        cy.elements().remove();
        cy.add(drawn.found);
      });
      cy.elements().not(".into").layout({ name: "dagre", rankDir: "TB", nodeSep: 26, rankSep: 38, edgeSep: 8, animate: false, fit: false }).run();
      mark();
      return drawn.seen;
    }

    /** Mark the chosen site or op, its sinks and route, and fade all else. */
    function mark() {
      cy.elements().removeClass("faded chosen passed stopped");
      if (!chosen) return;
      const at = (numbers) => cy.collection(numbers.map((number) => cy.getElementById(place[number])).filter((each) => each.length));
      const own = at(chosen.nodes);
      const passed = at(chosen.route);
      const sinks = at(chosen.sinks);
      const stopped = at(chosen.stopped);
      const shown = own.union(passed).union(sinks).union(stopped);
      cy.elements().addClass("faded");
      shown.union(shown.ancestors()).union(shown.edgesWith(shown)).removeClass("faded");
      passed.union(sinks).union(own).edgesWith(passed.union(sinks).union(own)).not(".into").addClass("passed");
      passed.addClass("passed");
      stopped.addClass("stopped");
      own.addClass("chosen");
    }

    function reveal(numbers) {
      const before = open.size;
      for (const number of numbers) {
        for (let at = leaf.get(number) && leaf.get(number).parent; at && at.parent; at = at.parent) open.add(at.id);
      }
      return open.size !== before;
    }

    function centre(numbers) {
      const shown = cy.collection(numbers.map((number) => cy.getElementById(place[number])).filter((each) => each.length));
      if (!shown.length) return;
      cy.fit(shown, 60);
      if (cy.zoom() > 1) {
        cy.zoom(1);
        cy.center(shown);
      }
    }

    function choose(target, numbers) {
      chosen = target;
      const most = numbers.slice(0, 60);
      if (numbers.length && reveal(most)) draw();
      else mark();
      if (most.length) centre(most);
    }

    function chooseSite(site) {
      choose(site, [...site.nodes, ...site.sinks, ...site.stopped, ...site.route]);
      onChoice({ site });
    }

    function chooseOp(number) {
      const site = siteOf.get(number);
      if (site) return chooseSite(site);
      choose({ nodes: [number], route: [], sinks: [], stopped: [] }, [number]);
      onChoice({ op: data.ops[number], inputs: data.ops[number][3].map((input) => data.ops[input][0]),
        readers: readers[number].map((reader) => data.ops[reader][0]),
        took: data.sites.filter((each) => each.sinks.includes(number)),
        passed: data.sites.filter((each) => each.route.includes(number)),
        stopped: data.sites.filter((each) => each.stopped.includes(number)) });
      return undefined;
    }

    function clear() {
      chosen = null;
      mark();
      onChoice(null);
    }

    /** Open or close a scope; what was touched stays where it is on the screen. */
    function toggle(id) {
      const before = cy.getElementById(id).renderedPosition();
      const wasOpen = open.has(id);
      if (wasOpen) open.delete(id);
      else open.add(id);
      const seen = draw();
      if (seen > MOST && !wasOpen) onChoice({ note: `${seen} nodes are shown. Close some scopes if drawing gets slow.` });
      const after = cy.getElementById(id).renderedPosition();
      cy.panBy({ x: before.x - after.x, y: before.y - after.y });
    }

    /** Show the top of the graph at a size that can be read, or all of it where that can be read too. */
    function home() {
      cy.fit(undefined, 20);
      if (cy.zoom() >= 0.55) {
        if (cy.zoom() > 1) cy.zoom(1);
        cy.center();
        return;
      }
      const box = cy.elements().boundingBox();
      cy.zoom(Math.min(0.8, Math.max(0.55, (container.clientWidth - 40) / Math.max(box.w, 1))));
      const first = cy.nodes().not(".open").min((each) => each.position("y")).ele;
      const zoom = cy.zoom();
      const wide = box.w * zoom > container.clientWidth - 40;
      const x = wide ? first.position("x") : (box.x1 + box.x2) / 2;
      cy.pan({ x: container.clientWidth / 2 - x * zoom, y: 24 - box.y1 * zoom });
    }

    /** Draw all of it for paper, where the picture would show only what is on the screen; what is tall in columns. */
    function print() {
      const box = cy.elements().boundingBox();
      const scale = Math.min(1.5, 14000 / box.h, Math.sqrt(PIXELS / (box.w * box.h)));
      const whole = cy.renderer().bufferCanvasImage({ full: true, bg: "#fff", scale });
      const columns = Math.max(1, Math.round(Math.sqrt(whole.height / whole.width / 1.2)));
      const height = Math.ceil(whole.height / columns);
      printed.width = whole.width * columns;
      printed.height = height;
      const pen = printed.getContext("2d");
      for (let column = 0; column < columns; column++) pen.drawImage(whole, column * whole.width, -column * height);
    }
    addEventListener("beforeprint", print);

    cy.on("tap", "node", (event) => {
      const node = event.target;
      if (node.hasClass("scope") || node.hasClass("open")) toggle(node.id());
      else chooseOp(node.data("op"));
    });
    cy.on("tap", (event) => {
      if (event.target === cy) clear();
    });
    // The wheel scrolls the page until the picture is clicked, and again when the mouse has left it.
    cy.userZoomingEnabled(matchMedia("(pointer: coarse)").matches);
    container.addEventListener("pointerdown", () => cy.userZoomingEnabled(true));
    container.addEventListener("mouseleave", () => cy.userZoomingEnabled(matchMedia("(pointer: coarse)").matches));

    const zoomBy = (factor) => cy.zoom({ level: cy.zoom() * factor, renderedPosition: { x: container.clientWidth / 2, y: container.clientHeight / 2 } });
    draw();
    home();
    return {
      chooseSite, chooseOp, clear,
      fit: () => cy.fit(undefined, 20),
      home() {
        open.clear();
        Scopes.opened(root, FEW).forEach((id) => open.add(id));
        draw();
        home();
      },
      zoomIn: () => zoomBy(1.4),
      zoomOut: () => zoomBy(1 / 1.4),
      cy,
    };
  }

  return { show, COLOURS };
})();
