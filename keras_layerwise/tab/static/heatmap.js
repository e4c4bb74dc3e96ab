// Layers × steps for one or more runs, side by side on one colour scale.

import { CONFIG, base, plain, shortened, textWidth } from "./charts.js";
import { stepText } from "./dom.js";
import { STATES, stateOf } from "./marks.js";
import { niceTicks } from "./scale.js";

const NARROWEST = 240; // of one run's picture, in pixels
const LABEL = 11;
const LABEL_WIDTH = 210;
const SCALE_WIDTH = 92;
const GAP = 18;
const PIXELS_PER_COLUMN = 2;

function layoutOf(width, runs) {
  const room = width - LABEL_WIDTH - SCALE_WIDTH;
  const across = Math.max(1, Math.min(runs, Math.floor(room / NARROWEST)));
  return { across, down: Math.ceil(runs / across), each: room / across };
}

// How many columns are worth asking for, in steps that a resized window seldom crosses.
export function columnsFor(width, runs) {
  const wanted = layoutOf(width, runs).each / PIXELS_PER_COLUMN;
  return Math.max(100, Math.ceil(wanted / 50) * 50);
}

function plotHeight(rows) {
  if (rows <= 24) return Math.max(90, rows * 22);
  return Math.min(620, Math.max(528, rows * 12));
}

// Which rows have room for their names: selected ones and alarms before the others.
function labelled(rows, height, urgent) {
  const spacing = Math.ceil((LABEL + 3) / (height / rows.length));
  if (spacing <= 1) return rows.map((_, i) => i);
  const taken = [];
  const regular = rows.map((_, i) => i).filter((i) => i % spacing === 0);
  for (const i of [...urgent, ...regular]) {
    if (taken.every((j) => Math.abs(i - j) >= spacing)) taken.push(i);
  }
  return taken.sort((a, b) => a - b);
}

export function columnAt(matrix, step) {
  let low = 0, high = matrix.last.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (matrix.last[middle] < step) low = middle + 1;
    else high = middle;
  }
  return low;
}

// Round steps, at the columns that hold them; columns need not be evenly spaced in steps.
function stepTicks(matrix, width) {
  const { first, last } = matrix;
  const columns = first.length;
  if (columns === 0) return { tickvals: [], ticktext: [] };
  const widest = textWidth(stepText(last[columns - 1]), LABEL) + 22;
  const each = width / columns;
  const tickvals = [], ticktext = [];
  const round = niceTicks(first[0], last[columns - 1], Math.max(2, width / widest));
  for (const step of columns < 4 ? first : round) {
    const column = columnAt(matrix, step);
    if (step < first[column] || (column - tickvals.at(-1)) * each < widest) continue;
    tickvals.push(column);
    ticktext.push(stepText(step));
  }
  return { tickvals, ticktext };
}

const axis = (letter, i) => (i === 0 ? letter : `${letter}${i + 1}`);
const axisName = (letter, i) => `${letter}axis${i === 0 ? "" : i + 1}`;

/**
 * panels: [{run, matrix, marks}], rows: [name], scale: from colourScale, selected: Set of names.
 * Returns the cells by place, for who answers hovers and clicks.
 */
export async function drawHeatmap(chart, { panels, rows, scale, selected, look, view }) {
  const width = chart.clientWidth;
  const { across, down } = layoutOf(width, panels.length);
  const inner = plotHeight(rows.length);
  const title = 26, foot = 44, between = title + foot;
  const height = title + foot + down * inner + (down - 1) * between;

  const place = new Map(rows.map((name, i) => [name, i]));
  const alarmed = new Set();
  const states = panels.map(({ run, marks }) => new Map(run.rows.map((row) => [row.name, stateOf(row, marks)])));
  for (const { marks } of panels) {
    for (const mark of marks) if (mark.alarm && place.has(mark.row)) alarmed.add(mark.row);
  }
  // The runs share their labels.
  const shared = (name) => {
    const found = new Set(states.filter((own) => own.has(name)).map((own) => own.get(name)));
    return found.size > 1 && found.has("frozen") ? "differs" : [...found][0];
  };
  const prefix = (name) => {
    const state = shared(name);
    return (alarmed.has(name) ? "⚠ " : "") + (state ? `${STATES[state].glyph} ` : "");
  };
  const shown = rows.map((name) => prefix(name) + shortened(name, LABEL, LABEL_WIDTH - 44));
  const urgent = rows.flatMap((name, i) => (selected.has(name) || alarmed.has(name) ? [i] : []));
  const tickvals = labelled(rows, inner, urgent);
  const left = 18 + Math.max(40, ...tickvals.map((i) => textWidth(shown[i], LABEL)));
  const ticktext = tickvals.map((i) => (selected.has(rows[i]) ? `<b>${plain(shown[i])}</b>` : plain(shown[i])));

  const total = width - left - SCALE_WIDTH;
  const panelWidth = (total - GAP * (across - 1)) / across;
  const layout = {
    ...base(look),
    width,
    height,
    margin: { l: left, r: SCALE_WIDTH, t: title, b: foot, pad: 0 },
    hovermode: "closest",
    dragmode: "zoom",
    showlegend: false,
    uirevision: view,
    shapes: [],
    annotations: [],
    coloraxis: {
      colorscale: scale.colorscale,
      cmin: scale.low,
      cmax: scale.high,
      colorbar: {
        title: { text: plain(scale.title).replace(", ", ",<br>"), side: "right", font: { size: 11, color: look.soft } },
        tickvals: scale.ticks,
        ticktext: scale.labels.map(plain),
        tickfont: { size: LABEL },
        thickness: 12,
        len: 1,
        x: 1,
        xpad: 12,
        ypad: 0,
        outlinewidth: 0,
      },
    },
  };
  const data = [];
  const empty = (columns) => new Float64Array(columns).fill(NaN);
  const inside = height - title - foot;
  panels.forEach(({ run, matrix, marks }, i) => {
    const x = i % across, y = Math.floor(i / across);
    const columns = matrix.first.length;
    const top = 1 - (y * (inner + between)) / inside;
    const bottom = Math.max(0, top - inner / inside);
    const start = (x * (panelWidth + GAP)) / total;
    const end = Math.min(1, start + panelWidth / total);
    const lines = { showgrid: false, zeroline: false, showline: false, ticks: "", color: look.text };
    layout[axisName("x", i)] = {
      ...lines,
      ...stepTicks(matrix, panelWidth),
      tickmode: "array",
      tickangle: 0,
      tickfont: { size: LABEL, color: look.soft },
      title: { text: "step", font: { size: LABEL, color: look.soft }, standoff: 4 },
      range: [-0.5, Math.max(columns, 1) - 0.5],
      domain: [start, end],
      anchor: axis("y", i),
    };
    layout[axisName("y", i)] = {
      ...lines,
      tickmode: "array",
      tickvals,
      ticktext,
      showticklabels: x === 0,
      tickfont: { size: LABEL },
      ticklabelstandoff: 5,
      range: [rows.length - 0.5, -0.5],
      domain: [bottom, top],
      anchor: axis("x", i),
      matches: i === 0 ? undefined : "y",
    };
    layout.annotations.push({
      text: `<b>${plain(shortened(run.name, 13, panelWidth - 8))}</b>`,
      x: start, y: top, xref: "paper", yref: "paper",
      xanchor: "left", yanchor: "bottom", showarrow: false, font: { size: 13 },
    });
    data.push({
      type: "heatmap",
      z: rows.map((name) => {
        const row = matrix.row(name);
        return row ? scale.z(row) : empty(columns);
      }),
      coloraxis: "coloraxis",
      xaxis: axis("x", i),
      yaxis: axis("y", i),
      hoverinfo: "none",
    });
    const seen = new Map();
    for (const mark of marks) {
      if (!place.has(mark.row)) continue;
      const column = columnAt(matrix, mark.step);
      seen.set(`${mark.kind} ${column} ${mark.row}`, { ...mark, column });
    }
    const visible = [...seen.values()];
    data.push({
      type: "scatter",
      mode: "markers",
      x: visible.map((mark) => mark.column),
      y: visible.map((mark) => place.get(mark.row)),
      xaxis: axis("x", i),
      yaxis: axis("y", i),
      marker: {
        opacity: 1,
        symbol: visible.map((mark) => mark.symbol),
        size: visible.map((mark) => (mark.alarm ? 11 : 9)),
        color: visible.map((mark) => (mark.alarm ? "#d50000" : "#ffffff")),
        line: { width: 1.5, color: visible.map((mark) => (mark.alarm ? "#ffffff" : "#202020")) },
      },
      cliponaxis: false,
      hoverinfo: "skip",
    });
    for (const name of selected) {
      if (!place.has(name)) continue;
      layout.shapes.push({
        type: "rect", xref: `${axis("x", i)} domain`, yref: axis("y", i),
        x0: 0, x1: 1, y0: place.get(name) - 0.5, y1: place.get(name) + 0.5,
        line: { color: look.accent, width: 2 },
      });
    }
  });
  await window.Plotly.react(chart, data, layout, CONFIG);
  return (point) => {
    const number = Math.floor(point.curveNumber / 2);
    const panel = panels[number];
    const name = rows[Math.round(point.y)];
    const column = Math.round(point.x);
    if (!panel || name === undefined || column < 0 || column >= panel.matrix.first.length) return null;
    return { panel, name, column, state: states[number].get(name) };
  };
}
