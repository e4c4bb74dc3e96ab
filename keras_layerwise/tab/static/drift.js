// What moved? The heat-map with its sentence, legends, hover and table.

import { choices, keep, listOf, toggled, zoomSpan } from "./choices.js";
import { csvUrl } from "./data.js";
import { byId, count, el, float32, refill, stepText } from "./dom.js";
import { offer } from "./files.js";
import { drawHeatmap, legend } from "./heatmap.js";
import { HELD, heldSentence } from "./held.js";
import { STATES, stateOf } from "./marks.js";
import { colourScale, peak, shares } from "./scale.js";
import { distinct, matcher, visible } from "./text.js";
import { layerOf, shownRows } from "./tree.js";
import { columnAt, halves, joins } from "./values.js";

const TABLE_COLUMNS = 7;
const TABLE_RUNS = 8;
const SAID = 48; // letters of a run's name in a sentence
const HALVES = ["weights", "averages"];

// Runs whose values stayed finite: one that diverged by decades would leave all others one colour.
const finite = (panels) => {
  const found = panels.filter(({ marks }) => !marks.some(({ kind }) => kind === "nonfinite"));
  return found.length ? found : panels;
};

let drawn = null; // {panels, tree, kind, statistic, scales, rows, look, pick}

export const drawnPicture = () => drawn;

// Values by row, each made once; relative ones are shares of the layer's largest in all runs.
function prepare(panels, tree, kind) {
  const shownHalves = (found) => (choices.averages === "shown" ? found : { ...found, averages: null });
  const made = panels.map(() => new Map());
  const plainValues = (i, row) => {
    const key = `${row.key} ${row.members.length}`;
    if (!made[i].has(key)) made[i].set(key, shownHalves(halves(panels[i].matrix, row, kind.reads)));
    return made[i].get(key);
  };
  const peaks = new Map();
  const setting = finite(panels).map((panel) => panels.indexOf(panel));
  const divided = (row, found) =>
    Object.fromEntries(HALVES.map((half) => {
      if (!found[half]) return [half, null];
      const key = `${half} ${row.key} ${row.members.length}`;
      if (!peaks.has(key)) peaks.set(key, peak(setting.map((j) => plainValues(j, row)[half]).filter(Boolean), kind));
      return [half, shares(found[half], peaks.get(key), kind)];
    }));
  return panels.map((panel, i) => ({
    ...panel,
    reads: choices.relative === "layer" && kind.reads === "falling" ? "rising" : kind.reads,
    own: (row) => plainValues(i, row),
    values: (row) => (choices.relative === "layer" ? divided(row, plainValues(i, row)) : plainValues(i, row)),
  }));
}

/** panels: [{run, matrix, marks, held, colour}] of the steps that are shown; tree: of their runs. */
export function showDrift({ panels: read, tree, kind, statistic, look, onPick }) {
  const panels = prepare(read, tree, kind);
  const matches = matcher(choices.filter);
  const leaves = tree.leaves.filter((leaf) => matches(leaf.key));
  const rowOf = new Map(tree.leaves.map((leaf) => [leaf.key, { ...leaf, members: [leaf] }]));
  const relative = choices.relative === "layer", logarithmic = choices.scale === "log";
  const scales = Object.fromEntries(HALVES.map((half) => {
    const rows = finite(panels).flatMap((panel) => leaves.map((leaf) => panel.values(rowOf.get(leaf.key))[half]).filter(Boolean));
    return [half, rows.length ? colourScale(kind, rows, { logarithmic, relative, half }) : null];
  }));
  drawn = { panels, tree, kind, statistic, scales, look, onPick, matches };
  byId("layer-count").textContent =
    leaves.length === tree.leaves.length ? count(leaves.length, "layer") : `${leaves.length} of ${count(tree.leaves.length, "layer")}`;
  byId("layer-names").replaceChildren(...tree.leaves.slice(0, 2000).map((leaf) => el("option", { value: leaf.weights ?? leaf.averages })));
  byId("drift-note").textContent = noteOf(read);
  byId("drift-reset").hidden = !zoomSpan();
  byId("legends").replaceChildren(...HALVES.filter((half) => scales[half]).map((half) => legend(scales[half], half === "weights" ? "Weights" : "Moving averages")));
  const known = panels.filter((panel) => panel.held);
  const names = distinct(known.map(({ run }) => run.name), SAID);
  const held = known.map(({ held: states }, i) => ({ run: { name: names[i] }, states }));
  byId("held").textContent = held.length ? heldSentence(held) : "";
  redraw();
  showTables();
  document.body.dataset.statistic = statistic;
}

// What follows from the tree alone: nothing is asked for and no scale changes.
export function redraw() {
  const { panels, tree, scales, look, onPick, matches, kind, statistic } = drawn;
  const rows = shownRows(tree, new Set(listOf("open")), matches);
  drawn.rows = rows;
  const chart = byId("heatmap");
  chart.hidden = !rows.length || !panels.length;
  offer(chart, csvUrl(panels.map((panel) => panel.run), statistic));
  chart.setAttribute("aria-label", summaryOf(panels, rows, kind));
  if (chart.hidden) return chart.replaceChildren();
  return drawHeatmap(chart, {
    panels, rows, scales, prefix: tree.prefix, look, selected: new Set(listOf("layers").map(layerOf)),
    on: {
      hover: showTooltip,
      leave: hideTooltip,
      pick: (row) => (row.size === null ? onPick(row.weights ?? row.averages) : toggle(row)),
      toggle,
      zoom: (span) => onZoom(span.join("-")),
    },
  });
}

let onZoom = () => {};
export const onZoomed = (callback) => (onZoom = callback);

function toggle(row) {
  keep(toggled("open", row.key));
  redraw();
}

export function openAll(open) {
  const { tree } = drawn;
  const groups = tree.nodes.filter((node) => node.children.length).map((node) => node.key);
  keep({ open: JSON.stringify(open === tree.large ? groups : []) });
  redraw();
}

function noteOf(panels) {
  if (panels.some(({ matrix }) => !matrix.exact)) return "First view; reading every record…";
  const said = [];
  if (panels.some(({ matrix }) => joins(matrix))) said.push("Each column joins several records and shows the one that stands out most. Drag to zoom.");
  if (finite(panels).length < panels.length) said.push("Runs with values that are not finite do not set the colours.");
  return said.join(" ");
}

function summaryOf(panels, rows, kind) {
  const alarms = panels.reduce((sum, { marks }) => sum + marks.filter((mark) => mark.alarm).length, 0);
  const records = panels.slice(0, 6).map(({ run, matrix }) => `${visible(run.name)} up to step ${stepText(matrix.last.at(-1) ?? 0)}`);
  const more = panels.length > 6 ? ` and ${panels.length - 6} more` : "";
  return `Heat map of ${kind.label}: ${count(rows.length, "row")}, ${records.join("; ")}${more}. ${count(alarms, "alarm")}. The values are in the table below.`;
}

export function spanOf(matrix, column) {
  const [first, last] = [matrix.first[column], matrix.last[column]];
  return first === last ? `step ${stepText(first)}` : `steps ${stepText(first)}–${stepText(last)}`;
}

function showTooltip({ panel, row, column }, { clientX, clientY }) {
  const { matrix, run, marks } = panel;
  const values = panel.own(row);
  const keys = new Set(row.members.map((leaf) => leaf.key));
  const here = marks.filter((mark) => keys.has(layerOf(mark.row)) && columnAt(matrix, mark.step) === column);
  const infos = run.rows.filter((info) => keys.has(layerOf(info.name)));
  const parameters = infos.reduce((sum, info) => sum + info.parameters, 0);
  const state = row.size === null && infos.length ? stateOf(infos[0], marks) : null;
  const held = row.size === null ? panel.held?.get(row.key) : null;
  const text = (half) => (values[half] ? float32(values[half][column]) : "not logged for this run");
  const facts = [
    visible(run.name),
    row.size === null ? null : `${count(row.size, "layer")}, the one that stands out most`,
    infos.length ? count(parameters, "parameter") : null,
    state ? STATES[state].label : null,
    held ? HELD[held.state].label + (held.step === null ? "" : ` (step ${stepText(held.step)})`) : null,
  ].filter(Boolean);
  const tooltip = byId("tooltip");
  tooltip.replaceChildren(
    el("strong", {}, visible(row.size === null ? row.key : row.label)),
    el("div", { className: "value" }, values.weights || !values.averages ? text("weights") : text("averages")),
    values.weights && values.averages ? el("div", { className: "averages" }, `moving averages ${text("averages")}`) : null,
    el("div", { className: "step" }, spanOf(matrix, column)),
    el("div", { className: "hint" }, facts.join(" · ")),
    ...here.slice(0, 8).map((mark) => el("div", { className: mark.alarm ? "alarm" : "" }, `${mark.glyph} ${visible(mark.text)}`))
  );
  tooltip.hidden = false;
  const { width, height } = tooltip.getBoundingClientRect();
  const x = clientX + 16 + width > window.innerWidth ? clientX - 16 - width : clientX + 16;
  const y = Math.min(clientY + 16, window.innerHeight - height - 8);
  tooltip.style.left = `${Math.max(8, x)}px`;
  tooltip.style.top = `${Math.max(8, y)}px`;
}

export function hideTooltip() {
  byId("tooltip").hidden = true;
}

// The same values for who does not see the picture, and a way to choose layers by key.
export function showTables() {
  if (!byId("table").open || !drawn) return;
  const { panels, kind, tree, onPick, matches } = drawn;
  const selected = new Set(listOf("layers"));
  const names = tree.leaves.filter((leaf) => matches(leaf.key)).flatMap((leaf) => [leaf.weights, leaf.averages].filter(Boolean));
  refill(byId("tables"), panels.slice(0, TABLE_RUNS).map((panel) => tableOf(panel, { names, selected, kind, onPick })));
  if (panels.length > TABLE_RUNS) byId("tables").append(el("p", { className: "hint" }, `${panels.length - TABLE_RUNS} more runs are in the CSV.`));
}

function tableOf({ run, matrix, marks }, { names, selected, kind, onPick }) {
  const columns = matrix.first.length;
  const number = Math.min(TABLE_COLUMNS, columns);
  const shown = Array.from({ length: number }, (_, i) => (number === 1 ? 0 : Math.round((i * (columns - 1)) / (number - 1))));
  const info = new Map(run.rows.map((row) => [row.name, row]));
  const body = names.filter((name) => matrix.row(name)).map((name) => {
    const button = el("button", { type: "button", className: "layer", "data-key": JSON.stringify([run.name, name]) }, visible(name));
    button.setAttribute("aria-pressed", selected.has(name));
    button.addEventListener("click", () => onPick(name));
    const state = info.has(name) ? stateOf(info.get(name), marks) : null;
    const alarms = [...new Set(marks.filter((mark) => mark.alarm && mark.row === name).map((m) => `${m.glyph} ${m.label ?? m.kind}`))];
    const row = matrix.row(name);
    return el(
      "tr",
      {},
      el("th", { scope: "row" }, button),
      el("td", {}, state ? STATES[state].label : "trainable"),
      el("td", { className: alarms.length ? "alarm" : "" }, alarms.join(", ")),
      ...shown.map((column) => el("td", { className: "number" }, float32(row[column])))
    );
  });
  const heads = ["Layer", "State", "Alarms"].map((text) => el("th", { scope: "col" }, text));
  const steps = shown.map((column) => el("th", { scope: "col", className: "number" }, spanOf(matrix, column)));
  const caption = `${visible(run.name)}: ${kind.label}, ${number} of ${count(columns, "column")}; the CSV has every record`;
  return el(
    "div",
    { className: "scroll", tabIndex: 0, role: "region", ariaLabel: `Values of ${visible(run.name)}` },
    el("table", { className: "sheet values" }, el("caption", {}, caption), el("thead", {}, el("tr", {}, ...heads, ...steps)), el("tbody", {}, ...body))
  );
}
