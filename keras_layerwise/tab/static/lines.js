// The selected layers' values over steps, their learning rates below, on one step axis.

import { CONFIG, DASHES, base, plain, shortened } from "./charts.js";
import { float32, stepText } from "./dom.js";

const POINTS = 80; // with more records than this, dots hide the line

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

function spanText(matrix, i) {
  const [first, last] = [matrix.first[i], matrix.last[i]];
  return first === last ? `step ${stepText(first)}` : `steps ${stepText(first)}–${stepText(last)}`;
}

function trace(matrix, values, look, lowest = -Infinity) {
  return {
    type: "scatter",
    mode: matrix.last.length <= POINTS ? "lines+markers" : "lines",
    x: matrix.last,
    y: Array.from(values, (value) => (Number.isFinite(value) && value > lowest ? value : null)),
    marker: { size: 5 },
    line: { ...look, width: 2 },
    connectgaps: false,
    hovertemplate: "%{text}<extra></extra>",
  };
}

/** panels: [{run, matrix, rates, marks}], layers: [name] in the order of their colours. */
export async function drawLines(chart, { panels, layers, title, logarithmic, look, view }) {
  const data = [];
  const several = panels.length > 1;
  const changes = new Map();
  layers.forEach((layer, i) => {
    panels.forEach(({ run, matrix, rates, marks }, j) => {
      const colour = { color: look.colours[i % look.colours.length], dash: DASHES[j % DASHES.length] };
      const name = several ? `${layer} · ${run.name}` : layer;
      const heading = `<b>${plain(layer)}</b><br>${plain(run.name)}, `;
      const values = matrix.row(layer);
      if (values) {
        data.push({
          ...trace(matrix, values, colour, logarithmic ? 0 : undefined),
          name: plain(shortened(name, 12, 240)),
          legendgroup: `${i} ${j}`,
          text: Array.from(values, (v, k) => `${heading}${spanText(matrix, k)}<br>${float32(v)}`),
        });
      }
      for (const rate of ratesOf(rates, layer)) {
        data.push({
          ...trace(rates, rate.values, colour),
          line: { ...colour, width: 2, shape: "vh" }, // recorded when its steps are over
          yaxis: "y2",
          showlegend: false,
          legendgroup: `${i} ${j}`,
          text: Array.from(
            rate.values,
            (v, k) => `<b>${plain(rate.name)}</b><br>${plain(run.name)}, ${spanText(rates, k)}<br>learning rate ${float32(v)}`
          ),
        });
      }
      const alarms = values ? marks.filter((mark) => mark.alarm && mark.row === layer) : [];
      if (alarms.length) {
        const at = alarms.map((mark) => matrix.last.findIndex((step) => step >= mark.step));
        data.push({
          type: "scatter",
          mode: "markers",
          x: alarms.map((mark) => mark.step),
          y: at.map((k) => (Number.isFinite(values[k]) ? values[k] : 0)),
          marker: { symbol: alarms.map((m) => m.symbol), size: 11, color: "#d50000", line: { color: "#fff", width: 1.5 } },
          showlegend: false,
          text: alarms.map((m) => `<b>${plain(layer)}</b><br>${plain(run.name)}, step ${stepText(m.step)}<br>${plain(m.text)}`),
          hovertemplate: "%{text}<extra></extra>",
        });
      }
      for (const mark of marks) {
        if (mark.alarm || mark.row !== layer) continue;
        const at = changes.get(mark.step) ?? { texts: new Set(), details: new Set() };
        at.texts.add(layers.length > 1 ? `${layer} ${mark.text}` : mark.text);
        at.details.add(`<b>${plain(layer)}</b> ${plain(mark.text)}, ${plain(run.name)}`);
        changes.set(mark.step, at);
      }
    });
  });
  const hasRates = data.some((line) => line.yaxis === "y2");
  const grid = { gridcolor: look.line, zeroline: false, linecolor: look.line, tickfont: { size: 11 } };
  const label = (text) => ({ text: plain(text), font: { size: 12, color: look.soft } });
  const layout = {
    ...base(look),
    plot_bgcolor: look.paper,
    width: chart.clientWidth,
    height: hasRates ? 460 : 320,
    margin: { l: 78, r: 16, t: 40, b: 44 },
    hovermode: "closest",
    uirevision: view,
    showlegend: true,
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { size: 12 }, tracegroupgap: 0 },
    xaxis: { ...grid, title: { ...label("step"), standoff: 6 }, anchor: hasRates ? "y2" : "y", separatethousands: true, tickformat: ",d" },
    yaxis: { ...grid, title: label(title), domain: hasRates ? [0.42, 1] : [0, 1], type: logarithmic ? "log" : "linear", nticks: logarithmic ? 4 : 0, exponentformat: "e" },
    shapes: [...changes.keys()].map((step) => ({
      type: "line", xref: "x", yref: "paper", x0: step, x1: step, y0: 0, y1: 1,
      line: { color: look.soft, width: 1, dash: "dot" },
    })),
    annotations: [...changes].map(([step, { texts, details }]) => ({
      text: plain(shortened([...texts].join(", "), 11, 160)),
      hovertext: [`step ${stepText(step)}`, ...details].join("<br>"),
      x: step, y: hasRates ? 0.37 : 1, xref: "x", yref: "paper", yanchor: hasRates ? "middle" : "bottom",
      showarrow: false, bgcolor: look.paper, font: { size: 11, color: look.soft },
    })),
  };
  if (hasRates) {
    layout.yaxis2 = { ...grid, title: label("Learning rate"), domain: [0, 0.32], exponentformat: "e", rangemode: "tozero" };
  }
  await window.Plotly.react(chart, data, layout, CONFIG);
}
