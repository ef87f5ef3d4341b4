"use strict";
/* The plots: ranges of weights by channel, and the error along the network. */
const Plots = (() => {
  const BEFORE = "#8a939c";
  const AFTER = "#2166ac";
  const WORST = "#b2182b";
  const FLOOR = 1e-9; // where no difference is shown, as a logarithm has no zero

  const middle = (values) => d3.median(values.filter((value) => value > 0));

  /** Plot the ranges of an op's channels before and after, sorted: a spread is a steep end. */
  function ranges(sink, width) {
    const sorted = sink.ranges.map((values, when) =>
      values.map((range, channel) => ({ range, channel, when: when ? "after" : "before" }))
        .filter(({ range }) => range > 0).sort((a, b) => a.range - b.range)
        .map((each, rank) => ({ ...each, rank })));
    return Plot.plot({
      width, height: 190, marginLeft: 52, style: { fontSize: "12px" },
      x: { label: "channels, sorted by range →", ticks: 5 },
      y: { type: "log", label: "↑ largest |weight|", grid: true, ticks: 4, tickFormat: "~g" },
      color: { domain: ["before", "after"], range: [BEFORE, AFTER], legend: true },
      marks: [
        Plot.ruleY(sorted.map(([...all], when) => ({ y: middle(all.map((each) => each.range)), when: when ? "after" : "before" })),
          { y: "y", stroke: "when", strokeDasharray: "3,3" }),
        Plot.lineY(sorted.flat(), { x: "rank", y: "range", stroke: "when", strokeWidth: 2, curve: "step" }),
        Plot.tip(sorted.flat(), Plot.pointer({ x: "rank", y: "range", stroke: "when",
          channels: { channel: "channel" }, format: { x: false, y: ".3g", channel: true, stroke: true } })),
      ],
    });
  }

  /** Plot the error of each tensor in the order of the graph, with the limit. */
  function errors(measurement, width) {
    const points = measurement.points.map(([name, error], place) => ({ name, place, error: Math.max(error, FLOOR), real: error }));
    const worst = d3.greatest(points, (each) => each.real);
    const limit = measurement.limit;
    return Plot.plot({
      width, height: 220, marginLeft: 60, style: { fontSize: "12px" },
      x: { label: "tensors, in the order of the graph →", ticks: 6 },
      y: { type: "log", label: "↑ max|a−b| / max|b|", grid: true, ticks: 5, tickFormat: "~e",
        domain: [FLOOR, Math.max(limit || FLOOR, worst.error) * 2], clamp: true },
      marks: [
        limit ? Plot.ruleY([limit], { stroke: WORST, strokeDasharray: "5,4" }) : null,
        limit ? Plot.text([limit], { y: (each) => each, text: () => `limit ${limit.toExponential(0)}`, frameAnchor: "right", dy: -7, fill: WORST }) : null,
        Plot.dot(points, { x: "place", y: "error", r: 2.2, fill: AFTER, fillOpacity: 0.65 }),
        Plot.dot([worst], { x: "place", y: "error", r: 5, stroke: WORST, strokeWidth: 2 }),
        Plot.tip(points, Plot.pointer({ x: "place", y: "error", title: (each) =>
          `${each.name}\n${each.real ? each.real.toExponential(1) : "no difference"}`, lineWidth: 40 })),
      ],
    });
  }

  return { ranges, errors };
})();
