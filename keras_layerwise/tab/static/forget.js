// Did it forget? A metric over how far the model has moved as a whole, and the runs that no other beats.

import { CONFIG, FADED, base, onSelection, plain } from "./charts.js";
import { follow, pointAt } from "./cursor.js";
import { offer } from "./files.js";
import { visible } from "./text.js";

// Losses and errors are better when they are low.
export const lowIsBetter = (name) => /loss|error|mse|mae|perplexity|drift/i.test(name);

// Where the run was, in columns, when a metric was written: steps of both may count other things.
// The callback that wrote the metric may have come before the one that recorded the drift.
export function positionAt(times, time) {
  let low = 0, high = times.length;
  const late = high > 1 ? Math.min(1, (times[high - 1] - times[0]) / (2 * (high - 1))) : 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (times[middle] <= time + late) low = middle + 1;
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

let unfollow = () => {};

/** runs: [{run, colour, drift: Float64Array, matrix, curve: {steps, times, values}, marks}] */
export function drawForgetting(chart, { runs, metric, look, faded, onPick, onBrush }) {
  unfollow();
  const data = [], ends = [], paths = [];
  for (const { run, colour, drift, matrix, curve, marks } of runs) {
    const points = curve.values.map((y, i) => ({ y, at: positionAt(matrix.times, curve.times[i]), step: curve.steps[i] }))
      .map((point) => ({ ...point, x: point.at < 0 ? 0 : drift[point.at] })).filter(({ x, y }) => y !== null && Number.isFinite(x));
    if (!points.length) continue;
    for (const point of points) point.trained = point.at < 0 ? 0 : matrix.last[point.at];
    paths.push({ run, points, colour });
    const hover = ({ x, y, step }) => `<b>${plain(visible(run.name))}</b><br>${plain(metric)} ${Number(y.toPrecision(5))}, record ${step}<br>total drift ${x.toPrecision(4)}`;
    const common = { type: "scatter", hovertemplate: "%{text}<extra></extra>", customdata: points.map(() => run.name), ids: points.map(({ trained }) => String(trained)), opacity: faded(run) ? FADED : 1 };
    data.push({ ...common, mode: "lines", x: points.map((p) => p.x), y: points.map((p) => p.y), text: points.map(hover), line: { color: colour, width: 1.5 }, opacity: faded(run) ? FADED : 0.7 });
    const last = { ...points.at(-1), run, colour };
    ends.push(last);
    data.push({ ...common, mode: "markers", ids: [String(last.trained)], x: [last.x], y: [last.y], text: [hover(last)], marker: { color: colour, size: 10, line: { color: look.paper, width: 1.5 } } });
    const unfrozen = [...new Set(marks.filter((mark) => mark.kind === "unfrozen").map((mark) => mark.step))];
    const at = unfrozen.map((step) => points.find((p) => p.trained >= step) ?? points.at(-1));
    if (at.length) data.push({ ...common, mode: "markers", ids: at.map(({ trained }) => String(trained)), x: at.map((p) => p.x), y: at.map((p) => p.y), text: at.map((_, i) => `<b>${plain(visible(run.name))}</b><br>unfrozen at step ${unfrozen[i]}`), marker: { symbol: "triangle-up", size: 11, color: colour, line: { color: look.text, width: 1 } } });
  }
  const front = paretoFront(ends, true, lowIsBetter(metric));
  if (front.length > 1) {
    data.unshift({ type: "scatter", mode: "lines", x: front.map((p) => p.x), y: front.map((p) => p.y), line: { color: look.accent, width: 2, dash: "dot", shape: "hv" }, hoverinfo: "skip" });
  }
  chart.hidden = !data.length;
  offer(chart, {
    heads: ["run", "trained steps", "total drift", metric],
    rows: () => paths.flatMap(({ run, points }) => points.map(({ trained, x, y }) => [run.name, trained, x, y])),
  });
  if (!data.length) return [];
  const axis = (title) => ({ title: { text: plain(title), font: { size: 12, color: look.soft } }, gridcolor: look.line, zeroline: false, tickfont: { size: 11 } });
  window.Plotly.react(chart, data, {
    ...base(look), plot_bgcolor: look.paper, width: chart.clientWidth, height: 360, margin: { l: 64, r: 12, t: 10, b: 44 },
    showlegend: false, hovermode: "closest", dragmode: "select", xaxis: { ...axis("total drift"), rangemode: "tozero" }, yaxis: axis(metric),
  }, CONFIG);
  onSelection(chart, { pick: onPick, brush: onBrush });
  unfollow = followPaths(chart, paths);
  if (!chart.dataset.wired) {
    chart.dataset.wired = "yes";
    chart.on("plotly_hover", ({ points: [{ id }] }) => id !== undefined && pointAt(Number(id)));
    chart.on("plotly_unhover", () => pointAt(null));
  }
  return front.map(({ run }) => run.name);
}

// Where each run was at the step that is pointed at: dots over the chart, as the cursor is over
// the other pictures.
function followPaths(chart, paths) {
  chart.querySelectorAll(".at").forEach((dot) => dot.remove());
  const dots = paths.map(({ colour }) => {
    const dot = document.createElement("div");
    dot.className = "at";
    dot.hidden = true;
    dot.style.borderColor = colour;
    chart.append(dot);
    return dot;
  });
  return follow((step) => {
    const { xaxis, yaxis } = chart._fullLayout;
    paths.forEach(({ points }, i) => {
      const point = step === null ? undefined : points.findLast(({ trained }) => trained <= step);
      dots[i].hidden = !point;
      if (point) dots[i].style.transform = `translate(${xaxis._offset + xaxis.d2p(point.x)}px, ${yaxis._offset + yaxis.d2p(point.y)}px)`;
    });
  });
}
