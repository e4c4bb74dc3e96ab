// Did it forget? A metric over how far the model has moved as a whole, and the runs that no other beats.

import { CONFIG, FADED, base, onSelection, plain } from "./charts.js";
import { visible } from "./text.js";

// Losses and errors are better when they are low.
export const lowIsBetter = (name) => /loss|error|mse|mae|perplexity|drift/i.test(name);

// Where the run was, in columns, when a metric was written: steps of both may count other things.
export function positionAt(times, time) {
  let low = 0, high = times.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (times[middle] <= time + 1) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

// The points that no other point is at least as good as in both ways.
export function paretoFront(points, lowX, lowY) {
  const sign = (low) => (low ? 1 : -1);
  const ordered = [...points].sort((a, b) => sign(lowX) * (a.x - b.x) || sign(lowY) * (a.y - b.y));
  let best = Infinity;
  return ordered.filter(({ y }) => {
    const better = sign(lowY) * y < best;
    if (better) best = sign(lowY) * y;
    return better;
  });
}

/** runs: [{run, colour, drift: Float64Array, matrix, curve: {steps, times, values}, marks}] */
export function drawForgetting(chart, { runs, metric, look, faded, onPick, onBrush }) {
  const data = [], ends = [];
  for (const { run, colour, drift, matrix, curve, marks } of runs) {
    const points = curve.values.map((y, i) => ({ y, at: positionAt(matrix.times, curve.times[i]), step: curve.steps[i] }))
      .map((point) => ({ ...point, x: point.at < 0 ? 0 : drift[point.at] })).filter(({ x, y }) => y !== null && Number.isFinite(x));
    if (!points.length) continue;
    const hover = ({ x, y, step }) => `<b>${plain(visible(run.name))}</b><br>${plain(metric)} ${Number(y.toPrecision(5))}, record ${step}<br>total drift ${x.toPrecision(4)}`;
    const common = { type: "scatter", hovertemplate: "%{text}<extra></extra>", customdata: points.map(() => run.name), opacity: faded(run) ? FADED : 1 };
    data.push({ ...common, mode: "lines", x: points.map((p) => p.x), y: points.map((p) => p.y), text: points.map(hover), line: { color: colour, width: 1.5 }, opacity: faded(run) ? FADED : 0.7 });
    const last = { ...points.at(-1), run, colour };
    ends.push(last);
    data.push({ ...common, mode: "markers", x: [last.x], y: [last.y], text: [hover(last)], marker: { color: colour, size: 10, line: { color: look.paper, width: 1.5 } } });
    const unfrozen = [...new Set(marks.filter((mark) => mark.kind === "unfrozen").map((mark) => mark.step))];
    const at = unfrozen.map((step) => points.find((p) => p.at >= 0 && matrix.last[p.at] >= step) ?? points.at(-1));
    if (at.length) data.push({ ...common, mode: "markers", x: at.map((p) => p.x), y: at.map((p) => p.y), text: at.map((_, i) => `<b>${plain(visible(run.name))}</b><br>unfrozen at step ${unfrozen[i]}`), marker: { symbol: "triangle-up", size: 11, color: colour, line: { color: look.text, width: 1 } } });
  }
  const front = paretoFront(ends, true, lowIsBetter(metric));
  if (front.length > 1) {
    data.unshift({ type: "scatter", mode: "lines", x: front.map((p) => p.x), y: front.map((p) => p.y), line: { color: look.accent, width: 2, dash: "dot", shape: "hv" }, hoverinfo: "skip" });
  }
  chart.hidden = !data.length;
  if (!data.length) return [];
  const axis = (title) => ({ title: { text: plain(title), font: { size: 12, color: look.soft } }, gridcolor: look.line, zeroline: false, tickfont: { size: 11 } });
  window.Plotly.react(chart, data, {
    ...base(look), plot_bgcolor: look.paper, width: chart.clientWidth, height: 360, margin: { l: 64, r: 12, t: 10, b: 44 },
    showlegend: false, hovermode: "closest", dragmode: "select", xaxis: { ...axis("total drift"), rangemode: "tozero" }, yaxis: axis(metric),
  }, CONFIG);
  onSelection(chart, { pick: onPick, brush: onBrush });
  return front.map(({ run }) => run.name);
}
