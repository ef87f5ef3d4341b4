"use strict";
/* The tree of name scopes, and what of it is seen when some of its scopes are open. Draws nothing. */
const Scopes = (() => {
  const MOST = 40; // children of a scope; one with more is split into runs, in the order of the graph
  const NEARLY_ALL = 0.8; // share of the ops of a scope
  const RUNS = 24; // into which it is split at first

  /**
   * Return the root of the tree: {id, label, ops, children, parent, leaf}.
   * A run, of which a scope with many children consists, has `ends` instead of a label: those of its first and last child.
   * A leaf is an op, or a scope all of whose ops are of one unit; `unit` tells that of an op, undefined for none.
   */
  function tree(ops, unit) {
    let count = 0;
    const scope = (label, parent) => ({ id: `s${count++}`, label, parent, children: [], ops: [], inner: new Map() });
    const root = scope("", null);
    const functions = new Map();
    ops.forEach(([name, , fn], number) => {
      let at = root;
      if (fn) {
        if (!functions.has(fn)) {
          functions.set(fn, scope(`function ${fn}`, root));
          root.children.push(functions.get(fn));
        }
        at = functions.get(fn);
      }
      const parts = name.split("/");
      const last = parts.pop();
      for (const part of parts) {
        if (!at.inner.has(part)) {
          at.inner.set(part, scope(part, at));
          at.children.push(at.inner.get(part));
        }
        at = at.inner.get(part);
      }
      at.children.push({ id: `o${number}`, label: last, parent: at, children: [], ops: [number], leaf: true });
    });
    const whole = shortened(root);
    gather(whole, unit);
    merge(whole);
    split(whole, scope);
    gather(whole, unit);
    return whole;
  }

  /** Join each scope with its only child. */
  function shortened(node) {
    node.children = node.children.map(shortened);
    node.children.forEach((child) => (child.parent = node));
    if (node.leaf || node.children.length !== 1) return node;
    const [only] = node.children;
    if (node.parent === null && only.leaf) return node;
    only.label = node.label ? `${node.label}/${only.label}` : only.label;
    only.parent = node.parent;
    return only;
  }

  /** Put what is in a child with nearly all ops into its parent: a frame around everything says nothing. */
  function merge(node) {
    for (;;) {
      const at = node.children.findIndex((child) => !child.leaf && child.ops.length >= NEARLY_ALL * node.ops.length);
      if (at < 0) break;
      const [whole] = node.children.splice(at, 1, ...node.children[at].children);
      whole.children.forEach((child) => (child.parent = node));
      node.label = node.label ? `${node.label}/${whole.label}` : whole.label;
    }
    node.children.forEach(merge);
  }

  /** Split scopes with many children into runs, so that no picture has too many nodes at once. */
  function split(node, scope) {
    node.children.forEach((child) => split(child, scope));
    while (node.children.length > MOST) {
      const size = Math.min(MOST, Math.ceil(node.children.length / RUNS));
      const runs = [];
      for (let start = 0; start < node.children.length; start += size) {
        const children = node.children.slice(start, start + size);
        if (children.length === 1) {
          runs.push(children[0]);
          continue;
        }
        const run = scope("", node);
        run.ends = [first(children[0]), last(children[children.length - 1])];
        run.children = children;
        children.forEach((child) => (child.parent = run));
        runs.push(run);
      }
      node.children = runs;
    }
  }

  const first = (node) => (node.ends ? node.ends[0] : node.label);
  const last = (node) => (node.ends ? node.ends[1] : node.label);

  /** Note all ops inside of each scope, and make it a leaf where they are one unit. */
  function gather(node, unit) {
    if (node.leaf) return node.ops;
    node.ops = node.children.flatMap((child) => gather(child, unit));
    const units = new Set(node.ops.map(unit));
    if (node.parent && node.ops.length && units.size === 1 && !units.has(undefined)) {
      node.leaf = true;
      node.children = [];
    }
    return node.ops;
  }

  /** Open scopes from the top, those with the fewest children first, as long as no more than `most` nodes are seen. */
  function opened(root, most) {
    const open = new Set();
    let seen = root.children.length;
    let waiting = [...root.children];
    for (;;) {
      waiting = waiting.filter((node) => !node.leaf).sort((a, b) => a.children.length - b.children.length);
      const next = waiting.shift();
      if (!next || seen + next.children.length - 1 > most) return open;
      open.add(next.id);
      seen += next.children.length - 1;
      waiting.push(...next.children);
    }
  }

  /** Return the nodes that are seen, parents first: {node, isOpen}; and for each op the node that it is seen in. */
  function visible(root, open, size) {
    const nodes = [];
    const place = new Array(size);
    const walk = (node) => {
      const isOpen = !node.leaf && open.has(node.id);
      nodes.push({ node, isOpen });
      if (isOpen) node.children.forEach(walk);
      else node.ops.forEach((number) => (place[number] = node.id));
    };
    if (root.leaf) walk(root);
    else root.children.forEach(walk);
    return { nodes, place };
  }

  /** Map each op to its leaf. */
  function leaves(root) {
    const found = new Map();
    const walk = (node) => (node.leaf ? node.ops.forEach((number) => found.set(number, node)) : node.children.forEach(walk));
    walk(root);
    return found;
  }

  return { tree, opened, visible, leaves };
})();
