// The cards below the heat-map, each from what `refresh` of the page knows.

import { choices, keep, listOf, objectOf, zoomSpan } from "./choices.js";
import { csvUrl, fetchMatrices, fetchMetric, fetchMetrics, fetchRecord } from "./data.js";
import { drawDifference } from "./difference.js";
import { byId, el, refill } from "./dom.js";
import { offer } from "./files.js";
import { drawForgetting } from "./forget.js";
import { drawLines } from "./lines.js";
import { drawCurves, drawRatios, drawScatter } from "./rates.js";
import { drawRecords } from "./records.js";
import { distinct, matcher, visible } from "./text.js";
import { shownRows } from "./tree.js";
import { drawSweep } from "./sweep.js";
import { between, total } from "./values.js";

const SIDE_BY_SIDE = 4; // records of more runs than this are compared in the table only
const BRUSHED = 12; // layers at once: each is a picture
const COARSE = 100; // columns where a chart needs the course of a run, not each record

function legendOf(id, runs, colourOf) {
  const names = distinct(runs.map((run) => run.name), 32);
  byId(id).replaceChildren(...runs.map((run, i) => {
    const swatch = el("span", { className: "swatch", ariaHidden: "true" });
    swatch.style.background = colourOf(run);
    return el("span", { className: "named", title: visible(run.name) }, swatch, names[i]);
  }));
}

export async function showLines({ panels, columns, statistic, kind, look, stale, pickLayer, colourOf }) {
  const present = new Set(panels.flatMap(({ run }) => run.rows.map((row) => row.name)));
  const selected = listOf("layers");
  const layers = selected.filter((name) => present.has(name));
  refill(
    byId("chips"),
    selected.map((name) => {
      const said = `Remove ${visible(name)}`;
      const button = el("button", { type: "button", title: said, ariaLabel: said, "data-key": name, className: present.has(name) ? "" : "gone" }, visible(name), el("span", { ariaHidden: "true" }, " ×"));
      button.addEventListener("click", () => pickLayer(name));
      return el("li", {}, button);
    }),
    byId("add-layer")
  );
  const any = layers.length > 0;
  byId("clear-layers").hidden = !selected.length;
  for (const id of ["lines", "lines-controls", "lines-legend"]) byId(id).hidden = !any;
  offer(byId("lines"), csvUrl(panels.map(({ run }) => run), statistic, layers));
  byId("lines-hint").hidden = any;
  const rated = panels.map(({ run }) => run).filter((run) => run.stamps.rates);
  byId("rates-csv").hidden = !rated.length;
  byId("rates-csv").href = csvUrl(rated, "rates");
  if (!any) return;
  const rates = new Map((await fetchMatrices(rated, "rates", columns, false)).filter(({ matrix }) => matrix).map(({ run, matrix }) => [run, between(matrix, zoomSpan())]));
  if (stale()) return;
  legendOf("lines-legend", panels.map(({ run }) => run), colourOf);
  byId("lines").setAttribute("aria-label", `${kind.label} and learning rate over steps of ${layers.map(visible).join(", ")}. The values are in the table above and in the CSV files.`);
  await drawLines(byId("lines"), {
    panels: panels.map((panel) => ({ ...panel, rates: rates.get(panel.run) })), layers, kind, look,
    logarithmic: choices.scale === "log" && kind.reads === "rising",
    axis: choices.axis, smooth: Math.min(0.99, Math.max(0, Number(choices.smooth) || 0)),
    view: JSON.stringify([statistic, layers, choices.axis, choices.zoom, panels.map(({ run }) => run.name)]),
  });
}

// The table of runs. Runs that its filters or a brush leave out fade in the charts below.
export function showSweep(whole) {
  const { chosen, records, problems, choose } = whole;
  const any = Object.keys(records).length + Object.keys(problems).length;
  byId("sweep-card").hidden = !any;
  Object.assign(whole, { faded: () => false, brush: () => {} });
  if (!any) return;
  const narrow = (change) => {
    keep(change);
    showSweep(whole);
    return showCharts(whole);
  };
  byId("sweep-note").textContent = "Sort by a heading; filter by range (1e-4..1e-2, >0.5) or regular expression; choose two runs to compare.";
  byId("all-runs").hidden = !listOf("brush").length && !Object.values(objectOf("where")).some(Boolean);
  byId("all-runs").onclick = () => narrow({ brush: "[]", where: "{}" });
  whole.brush = (names) => narrow({ brush: JSON.stringify(names) });
  const admitted = new Set(drawSweep(byId("sweep"), {
    ...whole, runs: chosen,
    on: {
      sort: (sort) => { keep({ sort }); showSweep(whole); },
      where: (where) => narrow({ where: JSON.stringify(where) }),
      pair: (pair) => choose({ pair: JSON.stringify(pair) }),
    },
  }));
  whole.faded = (run) => Boolean(records[run.name]) && !admitted.has(run);
}

// The charts in which a run is a line or a point.
export const showCharts = (whole) => Promise.all([showRates(whole), showForgetting(whole), showRatios(whole)]);

// The runs whose records are shown whole: a chosen pair, or the chosen runs where they are few.
export async function showRecords({ chosen, records, stale }) {
  const pair = chosen.filter((run) => listOf("pair").includes(run.name));
  const some = pair.length === 2 ? pair : chosen.length <= SIDE_BY_SIDE ? chosen : [];
  byId("hyperparameters-card").hidden = !chosen.length;
  const answers = await Promise.allSettled(some.filter((run) => records[run.name]).map(async (run) => ({ run, record: await fetchRecord(run) })));
  if (stale()) return;
  drawRecords(byId("hyperparameters"), byId("hyperparameters-note"), answers.flatMap(({ value }) => (value?.record ? [value] : [])));
  if (chosen.length > SIDE_BY_SIDE && pair.length < 2) byId("hyperparameters-note").textContent = "Choose two runs in the table above to see their records side by side.";
}

async function showRates({ chosen, records, panels, tree, kind, statistic, look, colourOf, stale, choose, pickLayer, faded }) {
  const rated = chosen.filter((run) => run.stamps.rates);
  const hasCurves = Object.values(records).some(({ multipliers }) => Object.keys(multipliers).length);
  byId("rates-card").hidden = !rated.length && !hasCurves;
  if (byId("rates-card").hidden) return;
  const rates = new Map((await fetchMatrices(rated, "rates", COARSE, true)).filter(({ matrix }) => matrix).map(({ run, matrix }) => [run.name, matrix]));
  if (stale()) return;
  legendOf("rates-legend", chosen, colourOf);
  byId("curves-title").hidden = !hasCurves;
  drawCurves(byId("curves"), { runs: chosen, records, tree, look, colourOf, faded });
  const moved = statistic !== "rates" && kind?.reads !== "signed";
  byId("scatter-title").hidden = !moved;
  byId("scatter").hidden = !moved;
  if (moved) drawScatter(byId("scatter"), {
    panels, rates, tree, kind, look, faded, onPick: pickLayer,
    onBrush: (layers) => choose({ layers: JSON.stringify(layers.slice(0, BRUSHED)) }),
  });
  byId("scatter-title").hidden = byId("scatter").hidden;
}

async function showForgetting({ chosen, columns, tree, look, colourOf, panels, stale, choose, faded, brush }) {
  const topic = ["l2", "relative_l2"].find((name) => chosen.some((run) => run.stamps[name]));
  const drifted = chosen.filter((run) => run.stamps[topic]);
  const metrics = drifted.length ? await fetchMetrics(drifted).catch(() => []) : [];
  if (stale()) return;
  const metric = metrics.includes(choices.metric) ? choices.metric : metrics.find((name) => /old/i.test(name)) ?? metrics.find((name) => /val.*acc|acc.*val/i.test(name)) ?? metrics.find((name) => /val/i.test(name)) ?? metrics.find((name) => !/learning_rate/.test(name));
  byId("forget-card").hidden = !metric; // a rate alone says nothing of what was forgotten
  if (!metric) return;
  byId("metric").replaceChildren(...metrics.map((name) => el("option", { value: name, selected: name === metric }, visible(name))));
  const [answers, curves] = await Promise.all([fetchMatrices(drifted, topic, columns, true), fetchMetric(drifted, metric)]);
  if (stale()) return;
  legendOf("forget-legend", drifted, colourOf);
  const runs = answers.filter(({ matrix }) => matrix).map(({ run, matrix }) => ({
    run, matrix, colour: colourOf(run), drift: total(matrix, tree.leaves), curve: curves[run.name],
    marks: panels.find((panel) => panel.run === run)?.marks ?? [],
  }));
  const front = drawForgetting(byId("forget"), {
    runs, metric, look, faded, onBrush: brush,
    onPick: (name) => choose({ pair: JSON.stringify([...listOf("pair"), name].slice(-2)) }),
  });
  const short = new Map(distinct(drifted.map((run) => run.name), 40).map((name, i) => [drifted[i].name, name]));
  const said = `${metric} over total ${topic === "l2" ? "L2 distance" : "relative distance"}, aligned by time; drag over points to keep their runs.`;
  byId("forget-note").textContent = front.length > 1 ? `${said} No run beats ${front.slice(0, 4).map((name) => short.get(name)).join(", ")}${front.length > 4 ? ` and ${front.length - 4} more` : ""} in both.` : said;
}

async function showRatios({ chosen, tree, look, colourOf, stale, faded }) {
  const logged = chosen.filter((run) => run.stamps.update_ratio);
  byId("ratios-card").hidden = !logged.length;
  if (!logged.length) return;
  const answers = (await fetchMatrices(logged, "update_ratio", COARSE, true)).filter(({ matrix }) => matrix);
  if (stale()) return;
  legendOf("ratios-legend", logged, colourOf);
  offer(byId("ratios"), csvUrl(logged, "update_ratio"));
  drawRatios(byId("ratios"), { panels: answers.map(({ run, matrix }) => ({ run, matrix, colour: colourOf(run) })), tree, look, faded });
}

export async function showComparison(whole) {
  const { tree, kind, look, panels, choose, pickLayer } = whole;
  const pair = listOf("pair").map((name) => panels.find((panel) => panel.run.name === name)).filter(Boolean);
  byId("difference-card").hidden = pair.length !== 2 || !kind;
  if (byId("difference-card").hidden) return;
  byId("difference-title").textContent = `${visible(pair[0].run.name)} against ${visible(pair[1].run.name)}`;
  const toggled = new Set(listOf("open"));
  drawDifference(byId("difference"), {
    panels: pair, tree, kind, look, rows: shownRows(tree, toggled, matcher(choices.filter)),
    on: {
      hover: () => {}, leave: () => {}, zoom: (span) => choose({ zoom: span.join("-") }),
      pick: (row) => (row.size === null ? pickLayer(row.weights ?? row.averages) : null),
      toggle: (row) => { choose({ open: JSON.stringify(toggled.delete(row.key) ? [...toggled] : [...toggled, row.key]) }); },
    },
  });
}
