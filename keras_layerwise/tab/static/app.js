// The page: choices in, pictures out.

import { alarmsOf, showAlarms } from "./alarms.js";
import { colourAt, theme } from "./charts.js";
import { choices, keep, listOf, takeAddress, toggled, zoomSpan } from "./choices.js";
import { showCharts, showComparison, showLines, showRecords, showSweep } from "./cards.js";
import { beat, fetchMatrices, fetchRecords, fetchRuns } from "./data.js";
import { byId } from "./dom.js";
import { drawnPicture, hideTooltip, onZoomed, openAll, showDrift, showTables } from "./drift.js";
import { putButtons } from "./files.js";
import { columnsFor } from "./heatmap.js";
import { DISTANCES, heldStates } from "./held.js";
import { changedFilter, colourNumbers, fetchListed, listen, onAddress, onTheme, readChoices, runColour } from "./host.js";
import { marksOf } from "./marks.js";
import { LABELS, kindOf } from "./scale.js";
import { FIELDS, RADIOS, showControls, showKey, showRuns } from "./side.js";
import { matcher } from "./text.js";
import { treeOf } from "./tree.js";
import { between, joins } from "./values.js";

const RUNS_AT_FIRST = 6; // more pictures than this are asked for, not shown unasked
const HEARTBEAT = 10_000; // milliseconds
const IDLE = 400; // milliseconds at rest before every record is read

let runs = null; // until the first answer
let look = theme(false);
let library = null; // loads the chart library, once
let turn = 0; // answers to older questions are dropped
let answered = null; // when the server last did

const marked = new WeakMap();
const marks = (run) => marked.get(run) ?? marked.set(run, marksOf(run)).get(run);
let numbers = null; // of TensorBoard's colours, where they tell the runs apart
const colourOf = (run) => (numbers ? runColour(numbers.get(run.name), look.dark) : colourAt(look, runs.indexOf(run)));

function chosenRuns() {
  const names = choices.runs ? listOf("runs") : runs.slice(0, RUNS_AT_FIRST).map((run) => run.name);
  const wanted = new Set(names);
  return runs.filter((run) => wanted.has(run.name));
}

const listedRuns = () => runs.filter((run) => matcher(choices.runfilter)(run.name));

function statistics(chosen) {
  const logged = new Set(chosen.flatMap((run) => run.statistics));
  const known = Object.keys(LABELS).filter((name) => logged.has(name));
  const own = [...logged].filter((name) => !known.includes(name));
  return [...known, ...own, ...(chosen.some((run) => run.stamps.rates) ? ["rates"] : [])];
}

function statistic(chosen) {
  const logged = statistics(chosen);
  if (logged.includes(choices.stat)) return choices.stat;
  return ["relative_l2", "l2"].find((name) => logged.includes(name)) ?? logged[0];
}

function choose(change) {
  keep(change);
  return refresh();
}

const pickLayer = (name) => choose(toggled("layers", name));

async function showLayer(name) {
  await choose({ layers: JSON.stringify([...new Set(listOf("layers")).add(name)]), filter: "" });
  byId("lines-card").scrollIntoView({ behavior: "smooth", block: "nearest" });
}

function showProblems(problems) {
  const unique = [...new Set(problems)];
  const shown = unique.slice(0, 6).map((text) => Object.assign(document.createElement("p"), { textContent: `⚡ ${text}` }));
  if (unique.length > 6) shown.push(Object.assign(document.createElement("p"), { textContent: `and ${unique.length - 6} more; the list of runs marks each` }));
  byId("problems").replaceChildren(...shown);
}

function sideOf(chosen, records) {
  showRuns({
    runs, listed: listedRuns(), chosen: new Set(chosen), records, colourOf,
    alarmsOf: (run) => alarmsOf(run, marks(run)).length,
    onRun: (run) => {
      const names = new Set(chosenRuns().map((other) => other.name));
      if (!names.delete(run.name)) names.add(run.name);
      choose({ runs: JSON.stringify([...names]) });
    },
  });
}

async function refresh() {
  if (!runs) return;
  const mine = ++turn;
  const stale = () => mine !== turn;
  const chosen = chosenRuns();
  const current = statistic(chosen);
  const facts = Object.assign({}, ...chosen.map((run) => run.facts));
  const kind = current && kindOf(current, facts);
  showControls({
    statistics: statistics(chosen).map((name) => [name, kindOf(name, facts).label]), current, kind,
    references: [...new Set(chosen.map((run) => run.reference).filter(Boolean))],
  });
  sideOf(chosen, {});
  showEmpty(chosen, current);
  showAlarms(chosen.map((run) => ({ run, marks: marks(run) })), showLayer);
  const problems = chosen.flatMap((run) => run.problems.map((text) => `${run.name}: ${text}`));
  const asked = fetchRecords(chosen).catch((error) => ({ records: {}, problems: {}, same: 0, failed: error.message }));
  const columns = columnsFor(byId("heatmap").clientWidth || byId("drift-card").clientWidth, chosen.length);
  const shared = { chosen, columns, kind, statistic: current, look, colourOf, stale, choose, pickLayer, tree: treeOf(chosen) };
  if (current) await showPictures(shared, problems);
  else showProblems(problems);
  const answer = await asked;
  if (stale()) return;
  if (answer.failed) showProblems([...problems, answer.failed]);
  sideOf(chosen, answer.records);
  await library();
  if (stale()) return;
  const whole = { ...shared, ...answer, panels: drawnPicture()?.panels ?? [], scale: drawnPicture()?.scales.weights };
  showSweep(whole);
  await showRecords(whole);
  if (stale()) return;
  await Promise.all([showCharts(whole), showComparison(whole)]);
  if (!stale()) document.body.dataset.drawn = String(mine);
}

function showEmpty(chosen, current) {
  byId("loading").hidden = true;
  byId("empty").hidden = runs.length > 0;
  for (const id of ["drift-card", "lines-card"]) byId(id).hidden = !current;
  byId("nothing").hidden = !runs.length || Boolean(current);
  byId("nothing").textContent = chosen.length
    ? "None of the chosen runs has drift: add WeightDrift to its callbacks. Its learning rates are also under Scalars."
    : "No run is chosen: choose one in the list of runs.";
}

// A quick first view, then every record, then those of the steps that are zoomed to; what is
// already whole is drawn once.
async function showPictures(shared, problems) {
  const { chosen, columns, statistic: current, stale } = shared;
  const logged = chosen.filter((run) => run.stamps[current]);
  const span = zoomSpan();
  for (const quick of [true, false]) {
    if (!quick) await new Promise((resolve) => setTimeout(resolve, IDLE));
    if (stale()) return;
    const answers = await fetchMatrices(logged, current, columns, quick);
    if (stale()) return;
    const found = answers.filter(({ matrix }) => matrix);
    const whole = found.every(({ matrix }) => matrix.exact);
    const distances = whole ? await distancesOf(found, current, columns) : new Map();
    if (stale()) return;
    const panels = found.map(({ run, matrix }) => ({
      run, matrix: between(matrix, span), marks: marks(run), colour: colourOf(run),
      held: distances.has(run) ? heldStates(run, distances.get(run), marks(run)) : null,
    }));
    await drawPictures(shared, panels);
    showProblems([...problems, ...answers.filter(({ error }) => error).map(({ run, error }) => `${run.name}: ${error}`)]);
    if (!whole) continue;
    if (!stale() && span && panels.some(({ matrix }) => joins(matrix))) await drawPictures(shared, await finer(panels, shared, span));
    return;
  }
}

const painted = () => new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));

async function drawPictures(shared, panels) {
  if (shared.stale()) return;
  byId("drift-card").removeAttribute("aria-busy");
  showDrift({ ...shared, panels: panels.map((panel) => ratesByLayer(panel, shared.statistic)), onPick: shared.pickLayer });
  await painted();
  await library();
  if (!shared.stale()) await showLines({ ...shared, panels });
}

async function finer(panels, { statistic: current, columns }, span) {
  const answers = await fetchMatrices(panels.map(({ run }) => run), current, columns, false, span);
  return panels.map((panel, i) => (answers[i].matrix?.first.length ? { ...panel, matrix: { ...answers[i].matrix, began: panel.matrix.began } } : panel));
}

// Rates are of weights, the tree is of layers: each layer takes the largest of its weights.
function ratesByLayer(panel, current) {
  if (current !== "rates") return panel;
  const { matrix } = panel;
  const members = new Map();
  for (const name of matrix.rows) {
    for (let end = name.length; end > 0; end = name.lastIndexOf("/", end - 1)) {
      const layer = name.slice(0, end);
      members.set(layer, [...(members.get(layer) ?? []), name]);
    }
  }
  const row = (layer) => {
    const rows = (members.get(layer) ?? []).map((name) => matrix.row(name));
    return rows.length ? rows.reduce((a, b) => a.map((value, i) => Math.max(value, b[i]))) : null;
  };
  return { ...panel, matrix: { ...matrix, row } };
}

// What tells whether a layer moved at all: the picture itself, or another statistic.
async function distancesOf(found, current, columns) {
  if (DISTANCES.slice(0, -1).includes(current)) return new Map(found.map(({ run, matrix }) => [run, matrix]));
  const answers = await Promise.all(DISTANCES.map((name) => {
    const own = found.map(({ run }) => run).filter((run) => DISTANCES.find((other) => run.stamps[other]) === name);
    return own.length ? fetchMatrices(own, name, columns, false) : [];
  }));
  return new Map(answers.flat().filter(({ matrix }) => matrix).map(({ run, matrix }) => [run, matrix]));
}

// Events ---------------------------------------------------------------------

function showDown(error) {
  const since = answered ? `What is shown was read at ${answered.toLocaleTimeString()}.` : "";
  byId("down").textContent = `⚡ TensorBoard does not answer (${error.message}). ${since} The page asks again by itself.`;
  byId("down").hidden = false;
  byId("loading").hidden = true;
}

async function load(listing = null) {
  try {
    const [found, listed] = await Promise.all([fetchRuns(listing), fetchListed()]);
    answered = new Date();
    byId("down").hidden = true;
    if (!found) return;
    numbers = colourNumbers(found.map((run) => run.name), listed);
    runs = found;
  } catch (error) {
    showDown(error);
    return;
  }
  await refresh();
}

// TensorBoard says nothing of a server that is gone.
async function watch() {
  if (document.hidden) return;
  try {
    await beat();
    if (!byId("down").hidden) await load();
  } catch (error) {
    showDown(error);
  }
}

function takeFilter() {
  const filter = changedFilter();
  if (filter !== null) choose({ runfilter: filter });
}

function soon(action, wait = 150) {
  let timer;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(action, wait);
  };
}

function connect() {
  const on = (id, event, action) => byId(id).addEventListener(event, action);
  on("statistic", "change", ({ target }) => choose({ stat: target.value }));
  for (const name of RADIOS) {
    for (const radio of document.getElementsByName(name)) radio.addEventListener("change", () => choose({ [name]: radio.value }));
  }
  on("averages", "change", ({ target }) => choose({ averages: target.checked ? "shown" : "hidden" }));
  on("smooth", "change", ({ target }) => choose({ smooth: target.value }));
  for (const [id, key] of Object.entries(FIELDS)) on(id, "input", soon(() => choose({ [key]: byId(id).value })));
  on("toggle-runs", "click", () => {
    const [chosen, listed] = [chosenRuns(), listedRuns()];
    const others = chosen.filter((run) => !listed.includes(run));
    const now = others.length < chosen.length ? others : [...others, ...listed];
    choose({ runs: JSON.stringify(now.map((run) => run.name)) });
  });
  on("add-layer", "change", ({ target }) => {
    const known = drawnPicture()?.tree.leaves.some((leaf) => [leaf.weights, leaf.averages].includes(target.value));
    if (known && !listOf("layers").includes(target.value)) pickLayer(target.value);
    if (known) target.value = "";
  });
  on("clear-layers", "click", () => {
    byId("add-layer").focus(); // the button is about to hide
    choose({ layers: "[]" });
  });
  on("drift-reset", "click", () => choose({ zoom: "" }));
  onZoomed((zoom) => choose({ zoom }));
  on("open-all", "click", () => openAll(true));
  on("close-all", "click", () => openAll(false));
  putButtons(() => look);
  on("table", "toggle", showTables);
  on("metric", "change", ({ target }) => choose({ metric: target.value }));
  window.addEventListener("scroll", hideTooltip, { passive: true });
  const main = document.querySelector("main");
  let width = main.clientWidth;
  const resized = soon(refresh);
  new ResizeObserver(() => {
    if (!main.clientWidth) return; // hidden
    takeFilter(); // TensorBoard's other dashboards may have been used meanwhile
    if (main.clientWidth === width) return; // only taller
    width = main.clientWidth;
    resized();
  }).observe(main);
}

export async function start(charts, listing) {
  let loading = null;
  library = () => (loading ??= charts());
  takeAddress();
  const filter = changedFilter();
  if (!choices.runfilter && filter) choices.runfilter = filter;
  showKey();
  connect();
  onTheme((dark) => {
    look = theme(dark);
    document.documentElement.classList.toggle("dark", dark);
    refresh();
  });
  onAddress(() => {
    if (Object.keys(readChoices()).length) {
      takeAddress();
      refresh();
    } else keep(); // TensorBoard's own navigation leaves a bare tab name
  });
  await load(listing);
  setInterval(watch, HEARTBEAT);
  // TensorBoard says both at once when it has reloaded.
  const again = soon(() => {
    takeFilter();
    load();
  }, 50);
  listen({ "experimental.DataReloaded": again, "experimental.RunsChanged": again });
}
