// Did the rates hold? Multipliers over depth, and what each layer's rate made of it.

import { CONFIG, FADED, base, logAxis, onSelection, plain } from "./charts.js";
import { offer } from "./files.js";
import { middleCut, visible } from "./text.js";

const HEIGHT = 300;

// Of any number of values: a call takes some hundred thousand arguments at most.
const smallest = (values) => values.reduce((a, b) => Math.min(a, b), Infinity);
const largest = (values) => values.reduce((a, b) => Math.max(a, b), -Infinity);

// Rates of a layer: those of its weights, the largest in each column.
export function rateOfLayer(rates, layer) {
  let found = null;
  for (const name of rates.rows) {
    if (name !== layer && !name.startsWith(`${layer}/`)) continue;
    const row = rates.row(name);
    found = found ? found.map((value, i) => Math.max(value, row[i])) : Float32Array.from(row);
  }
  return found;
}

// Rate times steps: how far a layer may have gone, whatever its gradients.
export function budget(rates, layer) {
  const row = rateOfLayer(rates, layer);
  if (!row) return NaN;
  let sum = 0, before = 0;
  row.forEach((value, i) => {
    if (Number.isFinite(value)) sum += value * (rates.last[i] - before);
    before = rates.last[i];
  });
  return sum;
}

const NOTABLE = Math.log(2);

const NAMED = 5; // layers
const MANY = 24; // runs whose points would cover each other

// Layers at least twice as far from their run's own line through log distance over log budget,
// each with how far.
export function offDiagonal(points) {
  if (points.length < 3) return [];
  const off = points.map((point) => ({ point, ratio: Math.log(point.y / point.x) }));
  const middle = off.map(({ ratio }) => ratio).sort((a, b) => a - b)[Math.floor(off.length / 2)];
  return off.map(({ point, ratio }) => ({ point, off: Math.abs(ratio - middle) })).filter(({ off: far }) => far > NOTABLE);
}

// The furthest of them in all runs, each layer once, and none where its name would cover another.
function annotationsOf(story, all, look) {
  const reach = (values) => Math.log10(largest(values) / smallest(values)) || 1;
  const [wide, tall] = [reach(all.map(({ x }) => x)), reach(all.map(({ y }) => y))];
  const named = [];
  const covers = (a, b) => Math.abs(Math.log10(a.x / b.x)) < wide / 3 && Math.abs(Math.log10(a.y / b.y)) < tall / 16;
  for (const { point } of [...story].sort((a, b) => b.off - a.off)) {
    if (named.length < NAMED && !named.some((other) => other.leaf.key === point.leaf.key || covers(other, point))) named.push(point);
  }
  return named.map(({ leaf, x, y }) => ({
    x: Math.log10(x), y: Math.log10(y), text: plain(middleCut(visible(leaf.key), 30)), font: { size: 10, color: look.soft },
    showarrow: true, arrowhead: 0, arrowwidth: 1, arrowcolor: look.line, ax: 18, ay: -14, xanchor: "left",
  }));
}

function layoutOf(chart, look, x, y) {
  const axis = (title, type, rest) => ({ title: { text: plain(title), font: { size: 12, color: look.soft } }, type, gridcolor: look.line, zeroline: false, exponentformat: "e", tickfont: { size: 11 }, ...rest });
  return {
    ...base(look), plot_bgcolor: look.paper, width: chart.clientWidth, height: HEIGHT, margin: { l: 64, r: 12, t: 10, b: 44 },
    showlegend: false, hovermode: "closest", xaxis: axis(x.title, x.type, x.rest), yaxis: axis(y.title, y.type, y.rest),
  };
}

// One curve per run: the multiplier of each layer, from the stem to the head.
export function drawCurves(chart, { runs, records, tree, look, colourOf, faded }) {
  const rows = [];
  const data = runs.filter((run) => records[run.name]).flatMap((run) => {
    const found = tree.leaves.map((leaf, depth) => ({ leaf, depth, value: records[run.name].multipliers[leaf.key] })).filter(({ value }) => value !== undefined);
    if (!found.length) return [];
    rows.push(...found.map(({ leaf, value }) => [run.name, leaf.key, value]));
    return [{
      type: "scatter", mode: "lines+markers", marker: { size: 4 }, line: { color: colourOf(run), shape: "hv", width: 2 }, opacity: faded(run) ? FADED : 1,
      x: found.map(({ depth }) => depth), y: found.map(({ value }) => (value > 0 ? value : null)),
      text: found.map(({ leaf, value }) => `<b>${plain(visible(leaf.key))}</b><br>${plain(visible(run.name))}, ${value > 0 ? `× ${value}` : "frozen"}`),
      hovertemplate: "%{text}<extra></extra>",
    }];
  });
  chart.hidden = !data.length;
  offer(chart, { heads: ["run", "layer", "multiplier"], rows: () => rows });
  if (data.length) window.Plotly.react(chart, data, layoutOf(chart, look, { title: "layer, from stem to head", type: "linear" }, { title: "Multiplier", rest: logAxis(data.flatMap(({ y }) => y)) }), CONFIG);
}

// A point per layer: how far its rate could take it against how far it went.
export function drawScatter(chart, { panels, rates, tree, kind, look, faded, onPick, onBrush }) {
  const story = [], all = [], rows = [];
  const data = panels.flatMap(({ run, matrix, colour }) => {
    const own = rates.get(run.name);
    if (!own || !matrix.first.length) return [];
    const last = matrix.first.length - 1;
    const points = tree.leaves.filter((leaf) => leaf.weights && matrix.row(leaf.weights)).map((leaf) => ({
      leaf, x: budget(own, leaf.key), y: kind.reads === "falling" ? 1 - matrix.row(leaf.weights)[last] : Math.abs(matrix.row(leaf.weights)[last]),
    })).filter(({ x, y }) => x > 0 && y > 0);
    if (!points.length) return [];
    story.push(...offDiagonal(points));
    all.push(...points);
    rows.push(...points.map(({ leaf, x, y }) => [run.name, leaf.key, x, y]));
    return [{
      type: "scatter", mode: "markers", marker: { color: colour, size: panels.length > MANY ? 4 : 7 }, opacity: faded(run) ? FADED : 0.8, customdata: points.map(({ leaf }) => leaf.weights),
      x: points.map(({ x }) => x), y: points.map(({ y }) => y),
      text: points.map(({ leaf, x, y }) => `<b>${plain(visible(leaf.key))}</b><br>${plain(visible(run.name))}<br>rate × steps ${x.toPrecision(3)}<br>${plain(kind.label)} ${y.toPrecision(3)}`),
      hovertemplate: "%{text}<extra></extra>",
    }];
  });
  chart.hidden = !data.length;
  offer(chart, { heads: ["run", "layer", "rate × steps", kind.label], rows: () => rows });
  if (!data.length) return;
  const layout = layoutOf(chart, look, { title: "rate × steps", rest: logAxis(data.flatMap(({ x }) => x)) }, { title: kind.label, rest: logAxis(data.flatMap(({ y }) => y)) });
  window.Plotly.react(chart, data, { ...layout, annotations: annotationsOf(story, all, look), dragmode: "select" }, CONFIG);
  onSelection(chart, { pick: onPick, brush: onBrush });
}

const TIGHT = 60; // pixels of a decade in which whole labels touch
const BANDS = [
  { from: 1e-9, to: 1e-5, label: "dead", colour: "rgba(117,117,117,0.22)" },
  { from: 3e-4, to: 3e-3, label: "healthy, about 1e-3", brief: "healthy", colour: "rgba(0,150,80,0.18)" },
  { from: 3e-2, to: 10, label: "too large", colour: "rgba(213,0,0,0.16)" },
];

// Update ratios per part of the model: the range of all records and the last one, over bands.
export function drawRatios(chart, { panels, tree, look, faded }) {
  const parts = tree.nodes.map((node) => ({ label: node.label, leaves: node.children.length ? node.children : [node] }));
  const data = panels.map(({ run, matrix, colour }) => {
    const points = parts.map(({ leaves }, i) => {
      const values = leaves.flatMap((leaf) => Array.from((leaf.weights && matrix.row(leaf.weights)) || [])).filter((value) => value > 0);
      const ends = leaves.map((leaf) => (leaf.weights ? matrix.row(leaf.weights)?.at(-1) : NaN)).filter((value) => value > 0);
      return { i, low: smallest(values), high: largest(values), last: ends.length ? largest(ends) : NaN };
    }).filter(({ last }) => last > 0);
    return {
      type: "scatter", mode: "markers", opacity: faded(run) ? FADED : 1, y: points.map(({ i }) => i), x: points.map(({ last }) => last), marker: { color: colour, size: 8 },
      error_x: { type: "data", symmetric: false, array: points.map(({ high, last }) => high - last), arrayminus: points.map(({ low, last }) => last - low), color: colour, thickness: 1, width: 0 },
      text: points.map(({ i, low, high, last }) => `<b>${plain(parts[i].label)}</b><br>${plain(visible(run.name))}<br>last ${last.toPrecision(3)}, from ${low.toPrecision(3)} to ${high.toPrecision(3)}`),
      hovertemplate: "%{text}<extra></extra>",
    };
  });
  const layout = layoutOf(chart, look, { title: "update ratio of one step", type: "log" }, { title: "", type: "linear", rest: { tickvals: parts.map((_, i) => i), ticktext: parts.map(({ label }) => plain(middleCut(label, 34))), autorange: "reversed", automargin: true } });
  layout.height = Math.min(640, 90 + 18 * parts.length);
  layout.margin.t = 24;
  layout.shapes = BANDS.map(({ from, to, colour }) => ({ type: "rect", xref: "x", yref: "paper", x0: from, x1: to, y0: 0, y1: 1, fillcolor: colour, line: { width: 0 }, layer: "below" }));
  const every = data.flatMap(({ x }) => x).map(Math.log10);
  const range = [Math.min(-6, smallest(every) - 0.5), Math.max(-1, largest(every) + 0.5)];
  layout.xaxis.range = range;
  const middle = ({ from, to }) => (Math.max(Math.log10(from), range[0]) + Math.min(Math.log10(to), range[1])) / 2;
  const tight = (chart.clientWidth - 160) / (range[1] - range[0]) < TIGHT;
  layout.annotations = BANDS.map((band) => ({ x: middle(band), y: 1, yref: "paper", yanchor: "bottom", text: (tight && band.brief) || band.label, showarrow: false, font: { size: 11, color: look.soft } }));
  window.Plotly.react(chart, data, layout, CONFIG);
}
