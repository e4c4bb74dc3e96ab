// The selected layers' values and learning rates: a small picture for each layer, a colour for each run.

import { CONFIG, base, logAxis, plain } from "./charts.js";
import { follow, pointAt } from "./cursor.js";
import { float32, stepText } from "./dom.js";
import { middleCut, visible } from "./text.js";
import { layerOf } from "./tree.js";
import { columnAt } from "./values.js";

const POINTS = 80; // with more records than this, dots hide the line
const NARROWEST = 400;
const TALL = { values: 190, rates: 90, gap: 56 };

// The learning rates of a layer are those of its weights; equal ones are one line.
function ratesOf(rates, layer) {
  const found = new Map();
  for (const name of rates?.rows ?? []) {
    if (name !== layer && !name.startsWith(`${layer}/`)) continue;
    const values = rates.row(name);
    const key = values.join();
    if (!found.has(key)) found.set(key, { name, values });
  }
  return [...found.values()];
}

// An exponential mean as TensorBoard's, free of its bias towards the first value.
export function smoothed(values, weight) {
  let last = 0, count = 0;
  return Array.from(values, (value) => {
    if (!Number.isFinite(value)) return value;
    last = last * weight + (1 - weight) * value;
    return last / (1 - weight ** ++count);
  });
}

// Where records are on the axis: steps, hours since the run's first, or dates.
export function places(matrix, axis) {
  if (axis === "relative") return matrix.times.map((time) => (time - (matrix.began ?? matrix.times[0])) / 3600);
  if (axis === "wall") return matrix.times.map((time) => new Date(time * 1000));
  return matrix.last;
}

const AXES = { step: "step", relative: "hours since the first record", wall: "time" };

function spanText(matrix, i) {
  const [first, last] = [matrix.first[i], matrix.last[i]];
  return first === last ? `step ${stepText(first)}` : `steps ${stepText(first)}–${stepText(last)}`;
}

let forget = () => {};

/** panels: [{run, matrix, rates, marks, colour}], layers: [name], kind: of the statistic. */
export async function drawLines(chart, { panels, layers, kind, logarithmic, axis, smooth, look, view }) {
  forget();
  const width = chart.clientWidth;
  const across = Math.max(1, Math.min(layers.length, Math.floor(width / NARROWEST)));
  const down = Math.ceil(layers.length / across);
  const hasRates = panels.some(({ rates }) => layers.some((layer) => ratesOf(rates, layerOf(layer)).length));
  const tall = TALL.values + (hasRates ? TALL.rates + 14 : 0);
  const height = down * (tall + TALL.gap) + 10;
  const grid = { gridcolor: look.line, zeroline: false, linecolor: look.line, tickfont: { size: 11 }, exponentformat: "e" };
  const label = (text) => ({ text: plain(text), font: { size: 11, color: look.soft }, standoff: 4 });
  const layout = {
    ...base(look), plot_bgcolor: look.paper, width, height, hovermode: "closest", uirevision: view, showlegend: false,
    margin: { l: 62, r: 12, t: 26, b: 40 }, shapes: [], annotations: [],
  };
  const inner = { w: width - 74, h: height - 66 };
  const data = [];
  const span = Math.max(0, ...panels.map(({ matrix }) => (matrix.last.at(-1) ?? 0) - (matrix.first[0] ?? 0)));
  layers.forEach((layer, i) => {
    const number = (j) => (j === 0 ? "" : String(j + 1));
    const [x, y, y2] = [`x${number(i)}`, `y${number(2 * i)}`, `y${number(2 * i + 1)}`];
    const left = (i % across) / across, row = Math.floor(i / across);
    const top = 1 - (row * (tall + TALL.gap)) / inner.h;
    const middle = top - TALL.values / inner.h, bottom = top - tall / inner.h;
    const domain = [left + (left ? 60 / inner.w : 0), left + 1 / across - 6 / inner.w];
    const allRates = [], allValues = [];
    for (const { run, matrix, rates, marks, colour } of panels) {
      const values = matrix.row(layer);
      const line = { color: colour, width: 2 };
      const heading = `<b>${plain(middleCut(visible(layer), 80))}</b><br>${plain(visible(run.name))}, `;
      const own = { xaxis: x, hovertemplate: "%{text}<extra></extra>", marker: { size: 5 }, type: "scatter" };
      if (values) {
        allValues.push(...values);
        data.push({
          ...own, yaxis: y, line, connectgaps: false, name: layer,
          mode: matrix.last.length <= POINTS ? "lines+markers" : "lines",
          x: places(matrix, axis),
          y: (smooth ? smoothed(values, smooth) : Array.from(values)).map((v) => (Number.isFinite(v) && (!logarithmic || v > 0) ? v : null)),
          text: Array.from(values, (v, k) => `${heading}${spanText(matrix, k)}<br>${float32(v)}`),
        });
      }
      for (const rate of ratesOf(rates, layerOf(layer))) {
        allRates.push(...rate.values);
        data.push({
          ...own, yaxis: y2, mode: "lines", name: rate.name, x: places(rates, axis), y: Array.from(rate.values),
          line: { ...line, shape: "vh" }, // recorded when its steps are over
          text: Array.from(rate.values, (v, k) => `<b>${plain(middleCut(visible(rate.name), 80))}</b><br>${plain(visible(run.name))}, ${spanText(rates, k)}<br>learning rate ${float32(v)}`),
        });
      }
      const here = marks.filter((mark) => (mark.alarm ? mark.row === layer : layerOf(mark.row) === layerOf(layer)));
      if (here.length && matrix.last.length) {
        const at = here.map((mark) => columnAt(matrix, mark.step));
        const xs = places(matrix, axis);
        data.push({
          ...own, yaxis: y, mode: "markers", name: "marks",
          x: at.map((k) => xs[k]),
          y: at.map((k) => (values && Number.isFinite(values[k]) && (!logarithmic || values[k] > 0) ? values[k] : logarithmic ? null : 0)),
          marker: { symbol: here.map((m) => m.symbol), size: 11, color: here.map((m) => (m.alarm ? "#d50000" : colour)), line: { color: look.paper, width: 1.5 } },
          text: here.map((m) => `${heading}step ${stepText(m.step)}<br>${plain(visible(m.text))}`),
        });
      }
    }
    layout[`xaxis${number(i)}`] = {
      ...grid, domain, anchor: hasRates ? y2 : y, title: label(AXES[axis]), ...(i ? { matches: "x" } : {}),
      ...(axis === "step" ? { separatethousands: true, tickformat: ",d", dtick: span < 6 ? 1 : undefined } : {}),
    };
    layout[`yaxis${number(2 * i)}`] = { ...grid, domain: [middle, top].map(clamp), anchor: x, nticks: 5, ...(logarithmic ? logAxis(allValues) : { type: "linear" }), title: i % across ? undefined : label(kind.label) };
    if (hasRates) {
      layout[`yaxis${number(2 * i + 1)}`] = { ...grid, domain: [bottom, middle - 14 / inner.h].map(clamp), anchor: x, nticks: 4, ...(logarithmic && allRates.some((v) => v > 0) ? logAxis(allRates) : { type: "linear" }), title: i % across ? undefined : label("Learning rate"), rangemode: "tozero" };
    }
    if (logarithmic && allValues.length && allValues.every((v) => v === 0)) {
      layout.annotations.push({ text: "exactly 0: not moved at all", x: (domain[0] + domain[1]) / 2, y: (top + middle) / 2, xref: "paper", yref: "paper", showarrow: false, font: { size: 12, color: look.soft } });
    }
    layout.annotations.push({
      text: `<b>${plain(middleCut(visible(layer), Math.floor((inner.w / across - 70) / 7)))}</b>`, hovertext: plain(visible(layer)),
      x: domain[0], y: top, xref: "paper", yref: "paper", xanchor: "left", yanchor: "bottom", showarrow: false, font: { size: 12 },
    });
  });
  await window.Plotly.react(chart, data, layout, CONFIG);
  if (!chart.dataset.wired) {
    chart.dataset.wired = "yes";
    chart.on("plotly_hover", ({ points }) => typeof points[0].x === "number" && pointAt(points[0].x));
    chart.on("plotly_unhover", () => pointAt(null));
  }
  forget = axis === "step" ? followLines(chart, layers.length, tall) : () => {};
}

const clamp = (share) => Math.min(1, Math.max(0, share));

// The cursor is laid over the chart: to let the library draw it would draw everything.
function followLines(chart, count, tall) {
  chart.querySelectorAll(".cursor").forEach((line) => line.remove());
  const lines = Array.from({ length: count }, () => {
    const line = document.createElement("div");
    line.className = "cursor";
    line.hidden = true;
    chart.append(line);
    return line;
  });
  return follow((step) => {
    lines.forEach((line, i) => {
      const axis = chart._fullLayout?.[`xaxis${i ? i + 1 : ""}`];
      const x = step === null || !axis ? NaN : axis.l2p(step);
      line.hidden = !(x >= 0 && x <= axis._length);
      if (line.hidden) return;
      const top = chart._fullLayout[`yaxis${i ? 2 * i + 1 : ""}`]._offset;
      line.style.cssText = `left:${axis._offset + x}px;top:${top}px;height:${tall}px;bottom:auto`;
    });
  });
}
