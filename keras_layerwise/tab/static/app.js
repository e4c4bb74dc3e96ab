// The page: choices in, pictures out.

import { saveImage, theme } from "./charts.js";
import { csvUrl, fetchMatrix, fetchRecord, fetchRuns } from "./data.js";
import { byId, count, el, float32, refill, stepText, unseen } from "./dom.js";
import { columnAt, columnsFor, drawHeatmap } from "./heatmap.js";
import { listen, onAddress, onTheme, readChoices, writeChoices } from "./host.js";
import { drawHyperparameters, statusBadge } from "./hyperparameters.js";
import { drawLines } from "./lines.js";
import { MARKS, STATES, marksOf, stateOf } from "./marks.js";
import { STATISTICS, colourScale } from "./scale.js";

const RUNS_AT_FIRST = 6; // more pictures than this are asked for, not shown unasked
const TABLE_COLUMNS = 7;
const ALARMS_SHOWN = 8;
const IDLE = 400; // milliseconds at rest before every record is read

const DEFAULTS = { runs: "", stat: "", scale: "linear", relative: "all", layers: "[]", filter: "", runfilter: "" };

let choices = { ...DEFAULTS };
let runs = null; // until the first answer
let look = theme(false);
let cellAt = null;
let drawn = null; // what the picture shows: {panels, rows, scale, statistic}
let library = null; // a promise of the chart library
let turn = 0; // answers to older questions are dropped

function list(text) {
  try {
    const parsed = JSON.parse(text);
    return Array.isArray(parsed) ? parsed.filter((item) => typeof item === "string") : [];
  } catch {
    return [];
  }
}

const selectedLayers = () => list(choices.layers);

function chosenRuns() {
  const names = choices.runs ? list(choices.runs) : runs.slice(0, RUNS_AT_FIRST).map((run) => run.name);
  const wanted = new Set(names);
  return runs.filter((run) => wanted.has(run.name));
}

function listedRuns() {
  const wanted = choices.runfilter.toLowerCase();
  return runs.filter((run) => run.name.toLowerCase().includes(wanted));
}

function statistics() {
  const logged = new Set(chosenRuns().flatMap((run) => run.statistics));
  return Object.keys(STATISTICS).filter((name) => logged.has(name));
}

function statistic() {
  const logged = statistics();
  return logged.includes(choices.stat) ? choices.stat : logged.find((s) => s === "relative_l2") ?? logged[0];
}

function choose(change) {
  choices = { ...choices, ...change };
  keepChoices();
  return refresh();
}

function keepChoices() {
  const changed = Object.entries(choices).filter(([key, value]) => value !== DEFAULTS[key]);
  writeChoices(Object.fromEntries(changed));
}

// The choices on the left ----------------------------------------------------

function showControls() {
  const chosen = new Set(chosenRuns());
  refill(
    byId("runs"),
    listedRuns().map((run) => {
      const box = el("input", { type: "checkbox", checked: chosen.has(run), "data-key": run.name });
      box.addEventListener("change", () => toggleRun(run));
      const alarms = alarmsOf(run).length ? count(alarmsOf(run).length, "alarm") : "";
      const problems = run.problems.join("\n");
      return el(
        "label",
        { className: "run" },
        box,
        el("span", { className: "name", title: run.name }, el("bdi", {}, run.name)),
        alarms ? el("span", { className: "alarm", title: alarms }, "⚠ ", unseen(alarms)) : null,
        problems ? el("span", { title: problems }, "⚠ ", unseen("not all of it can be read")) : null
      );
    })
  );
  byId("run-count").textContent = runs.length ? `${chosen.size} of ${count(runs.length, "run")} chosen` : "";
  const current = statistic();
  const options = statistics().map((name) =>
    el("option", { value: name, selected: name === current }, STATISTICS[name].label)
  );
  byId("statistic").replaceChildren(...options);
  byId("statistic").disabled = !options.length;
  byId("statistic-hint").textContent = current ? STATISTICS[current].hint : "";
  const references = new Set(chosenRuns().map((run) => run.reference).filter(Boolean));
  byId("reference").textContent = references.size ? `w₀: ${[...references].join("; ")}` : "";
  for (const name of ["scale", "relative"]) {
    for (const radio of document.getElementsByName(name)) radio.checked = radio.value === choices[name];
  }
  for (const [id, key] of [["layer-filter", "filter"], ["run-filter", "runfilter"]]) {
    if (byId(id) !== document.activeElement) byId(id).value = choices[key];
  }
}

function toggleRun(run) {
  const names = new Set(chosenRuns().map((other) => other.name));
  if (!names.delete(run.name)) names.add(run.name);
  choose({ runs: JSON.stringify([...names]) });
}

function showKey() {
  const entry = (glyph, text, kind = "") => el("li", {}, el("span", { className: `glyph ${kind}` }, glyph), text);
  const changes = new Map(Object.values(MARKS).filter((m) => !m.alarm).map((m) => [m.glyph, m.label]));
  changes.set(MARKS.multiplier.glyph, "rate or decay changed");
  byId("key").replaceChildren(
    entry("⚠", "a run or layer with an alarm", "alarm"),
    ...Object.values(MARKS).filter((mark) => mark.alarm).map((mark) => entry(mark.glyph, mark.label, "alarm")),
    ...[...changes].map(([glyph, label]) => entry(glyph, label)),
    ...Object.values(STATES).map(({ glyph, label }) => entry(glyph, label)),
    entry("", "no value, or 0 on a logarithmic scale", "gap")
  );
}

function showProblems(problems) {
  byId("problems").replaceChildren(...problems.map((text) => el("p", {}, `⚠ ${text}`)));
}

// The pictures ---------------------------------------------------------------

function unionRows(panels) {
  const names = [];
  const known = new Set();
  for (const { matrix } of panels) {
    let at = 0;
    for (const name of matrix.rows) {
      if (known.has(name)) {
        at = names.indexOf(name) + 1;
        continue;
      }
      names.splice(at++, 0, name);
      known.add(name);
    }
  }
  return names;
}

async function matricesOf(chosen, topic, columns, quick, problems) {
  const answers = await Promise.allSettled(
    chosen.map(async (run) => ({ run, matrix: await fetchMatrix(run, topic, columns, quick) }))
  );
  answers.forEach((answer, i) => {
    if (answer.status === "rejected") problems.push(`${chosen[i].name}: ${answer.reason.message}`);
  });
  return answers.flatMap((answer) => (answer.status === "fulfilled" ? [answer.value] : []));
}

async function refresh() {
  if (!runs) return;
  const mine = ++turn;
  showControls();
  const chosen = chosenRuns();
  const current = statistic();
  const problems = chosen.flatMap((run) => run.problems.map((text) => `${run.name}: ${text}`));
  byId("empty").hidden = runs.length > 0;
  for (const id of ["drift-card", "lines-card"]) byId(id).hidden = !current;
  byId("hyperparameters-card").hidden = !chosen.length;
  byId("nothing").hidden = !runs.length || Boolean(current);
  byId("nothing").textContent = chosen.length
    ? "None of the chosen runs has drift: add WeightDrift to its callbacks. Its learning rates are also under Scalars."
    : "No run is chosen: choose one in the list of runs.";
  showAlarms(chosen);
  const records = showRecords(chosen, () => mine === turn);
  if (current) {
    const logged = chosen.filter((run) => run.statistics.includes(current));
    const columns = columnsFor(byId("heatmap").clientWidth, logged.length);
    for (const quick of [true, false]) {
      if (!quick) await pause(IDLE);
      if (mine !== turn) return;
      const found = [...problems];
      const answers = await matricesOf(logged, current, columns, quick, found);
      await library;
      if (mine !== turn) return;
      const panels = answers.map((panel) => ({ ...panel, marks: marksOf(panel.run) }));
      await showDrift(panels, current);
      showProblems(found);
      await showLines(panels, current, columns, mine);
      if (mine !== turn || panels.every((panel) => panel.matrix.exact)) break;
    }
  } else {
    showProblems(problems);
  }
  await records;
  if (mine === turn) document.body.dataset.drawn = String(mine);
}

async function showDrift(panels, current) {
  const wanted = choices.filter.toLowerCase();
  const every = unionRows(panels);
  const rows = every.filter((name) => name.toLowerCase().includes(wanted));
  byId("layer-count").textContent =
    rows.length === every.length ? count(every.length, "row") : `${rows.length} of ${count(every.length, "row")}`;
  const values = panels.flatMap(({ matrix }) => rows.map((name) => matrix.row(name)).filter(Boolean));
  const scale = colourScale(current, values, {
    logarithmic: choices.scale === "log",
    relative: choices.relative === "layer",
  });
  drawn = { panels, rows, scale, statistic: current };
  byId("layer-names").replaceChildren(...every.map((name) => el("option", { value: name })));
  byId("drift-csv").href = csvUrl(panels.map((panel) => panel.run), current);
  byId("drift-note").textContent = noteOf(panels);
  const chart = byId("heatmap");
  chart.hidden = !rows.length || !panels.length;
  chart.setAttribute("aria-label", summaryOf(panels, rows, current));
  if (!chart.hidden) {
    const view = JSON.stringify([panels.map(({ run }) => run.name), rows.length]);
    cellAt = await drawHeatmap(chart, { panels, rows, scale, selected: new Set(selectedLayers()), look, view });
    wire(chart);
  }
  showTables();
  document.body.dataset.statistic = current;
}

function noteOf(panels) {
  const joined = panels.some(({ matrix }) => matrix.first.some((step, i) => step !== matrix.last[i]));
  if (panels.some(({ matrix }) => !matrix.exact)) return "First view; reading every record…";
  return joined ? "Each column joins several records and shows the one that stands out most." : "";
}

function summaryOf(panels, rows, current) {
  const alarms = panels.reduce((sum, { marks }) => sum + marks.filter((mark) => mark.alarm).length, 0);
  const records = panels.map(({ run, matrix }) => `${run.name} up to step ${stepText(matrix.last.at(-1) ?? 0)}`);
  return (
    `Heat map of ${STATISTICS[current].label}: ${count(rows.length, "row")}, ${records.join("; ")}. ` +
    `${count(alarms, "alarm")}. The values are in the table below.`
  );
}

function wire(chart) {
  if (chart.dataset.wired) return;
  chart.dataset.wired = "yes";
  chart.on("plotly_hover", ({ points, event }) => {
    const cell = cellAt?.(points[0]);
    if (cell) showTooltip(cell, event);
  });
  chart.on("plotly_unhover", hideTooltip);
  chart.on("plotly_click", ({ points }) => {
    const cell = cellAt?.(points[0]);
    if (cell) toggleLayer(cell.name);
  });
}

function spanOf(matrix, column) {
  const [first, last] = [matrix.first[column], matrix.last[column]];
  return first === last ? `step ${stepText(first)}` : `steps ${stepText(first)}–${stepText(last)}`;
}

function showTooltip({ panel, name, column, state }, { clientX, clientY }) {
  const { matrix, run, marks } = panel;
  const row = matrix.row(name);
  const here = marks.filter((mark) => mark.row === name && columnAt(matrix, mark.step) === column);
  const tooltip = byId("tooltip");
  const info = run.rows.find((other) => other.name === name);
  const facts = [
    run.name,
    info ? count(info.parameters, "parameter") : null,
    state ? STATES[state].label : null,
  ].filter(Boolean);
  tooltip.replaceChildren(
    el("strong", {}, name),
    el("div", { className: "value" }, row ? float32(row[column]) : "not logged for this run"),
    el("div", { className: "step" }, spanOf(matrix, column)),
    el("div", { className: "hint" }, facts.join(" · ")),
    ...here.map((mark) => el("div", { className: mark.alarm ? "alarm" : "" }, `${mark.glyph} ${mark.text}`))
  );
  tooltip.hidden = false;
  const { width, height } = tooltip.getBoundingClientRect();
  const x = clientX + 16 + width > window.innerWidth ? clientX - 16 - width : clientX + 16;
  const y = Math.min(clientY + 16, window.innerHeight - height - 8);
  tooltip.style.left = `${Math.max(8, x)}px`;
  tooltip.style.top = `${Math.max(8, y)}px`;
}

function hideTooltip() {
  byId("tooltip").hidden = true;
}

function toggleLayer(name) {
  const names = new Set(selectedLayers());
  if (!names.delete(name)) names.add(name);
  choose({ layers: JSON.stringify([...names]) });
}

// The same values for who does not see the picture, and a way to choose layers by key.
function showTables() {
  if (!byId("table").open || !drawn) return;
  const { panels, rows, statistic: current } = drawn;
  const selected = new Set(selectedLayers());
  refill(
    byId("tables"),
    panels.map(({ run, matrix, marks }) => {
      const columns = matrix.first.length;
      const number = Math.min(TABLE_COLUMNS, columns);
      const shown = Array.from({ length: number }, (_, i) =>
        number === 1 ? 0 : Math.round((i * (columns - 1)) / (number - 1))
      );
      const info = new Map(run.rows.map((row) => [row.name, row]));
      const body = rows.filter((name) => matrix.row(name)).map((name) => {
        const key = JSON.stringify([run.name, name]);
        const button = el("button", { type: "button", className: "layer", "data-key": key }, name);
        button.setAttribute("aria-pressed", selected.has(name));
        button.addEventListener("click", () => toggleLayer(name));
        const state = info.has(name) ? stateOf(info.get(name), marks) : null;
        const alarms = marks.filter((mark) => mark.alarm && mark.row === name);
        const row = matrix.row(name);
        return el(
          "tr",
          {},
          el("th", { scope: "row" }, button),
          el("td", {}, state ? STATES[state].label : "trainable"),
          el("td", { className: alarms.length ? "alarm" : "" }, [...new Set(alarms.map((m) => `${m.glyph} ${m.label}`))].join(", ")),
          ...shown.map((column) => el("td", { className: "number" }, float32(row[column])))
        );
      });
      return el(
        "div",
        { className: "scroll", tabIndex: 0, role: "region", ariaLabel: `Values of ${run.name}` },
        el(
          "table",
          { className: "sheet values" },
          el("caption", {}, `${run.name}: ${STATISTICS[current].label}, ${number} of ${count(columns, "column")}; the CSV has every record`),
          el(
            "thead",
            {},
            el(
              "tr",
              {},
              ...["Layer", "State", "Alarms"].map((text) => el("th", { scope: "col" }, text)),
              ...shown.map((column) => el("th", { scope: "col", className: "number" }, spanOf(matrix, column)))
            )
          ),
          el("tbody", {}, ...body)
        )
      );
    })
  );
}

// One for each kind and layer, with its first mark and how often it came.
function alarmsOf(run) {
  const groups = new Map();
  for (const mark of marksOf(run)) {
    if (!mark.alarm) continue;
    const key = JSON.stringify([run.name, mark.kind, mark.subject]);
    const group = groups.get(key) ?? { key, run, mark, number: 0 };
    group.number += 1;
    groups.set(key, group);
  }
  return [...groups.values()];
}

function showAlarms(chosen) {
  const found = chosen.flatMap(alarmsOf);
  byId("alarms-card").hidden = !found.length;
  byId("alarms-title").textContent = count(found.length, "alarm");
  const item = ({ key, run, mark, number }) => {
    const text = number > 1 ? `${mark.text} (${number} times)` : mark.text;
    const button = el(
      "button",
      { type: "button", title: text, "data-key": key },
      el("span", { className: "glyph alarm" }, mark.glyph),
      el("strong", {}, mark.subject),
      el("span", {}, mark.label ?? mark.kind),
      el("span", { className: "hint" }, `${run.name}, ${number > 1 ? "from " : ""}step ${stepText(mark.step)}`)
    );
    button.addEventListener("click", () => showLayer(mark.row));
    return el("li", {}, button);
  };
  const rest = found.slice(ALARMS_SHOWN);
  const { open = false } = byId("alarms").querySelector("details") ?? {};
  const more = el("summary", { "data-key": "more" }, `${rest.length} more`);
  refill(byId("alarms"), [
    ...found.slice(0, ALARMS_SHOWN).map(item),
    ...(rest.length ? [el("li", {}, el("details", { open }, more, el("ul", {}, ...rest.map(item))))] : []),
  ]);
}

async function showLayer(name) {
  const names = new Set(selectedLayers()).add(name);
  await choose({ layers: JSON.stringify([...names]), filter: "" });
  byId("lines-card").scrollIntoView({ behavior: "smooth", block: "nearest" });
}

async function showLines(panels, current, columns, mine) {
  const present = new Set(unionRows(panels));
  const layers = selectedLayers().filter((name) => present.has(name));
  refill(
    byId("chips"),
    selectedLayers().map((name) => {
      const properties = { type: "button", title: `Remove ${name}`, ariaLabel: `Remove ${name}`, "data-key": name };
      const className = present.has(name) ? "" : "gone";
      const button = el("button", { ...properties, className }, name, el("span", { ariaHidden: "true" }, " ×"));
      button.addEventListener("click", () => toggleLayer(name));
      return el("li", {}, button);
    }),
    byId("add-layer")
  );
  const any = layers.length > 0;
  byId("clear-layers").hidden = !selectedLayers().length;
  byId("lines").hidden = byId("lines-png").hidden = !any;
  byId("lines-hint").hidden = any;
  const rated = panels.map(({ run }) => run).filter((run) => run.stamps.rates);
  byId("rates-csv").hidden = !rated.length;
  byId("rates-csv").href = csvUrl(rated, "rates");
  if (!any) return;
  const rates = new Map(
    (await matricesOf(rated, "rates", columns, false, [])).map(({ run, matrix }) => [run.name, matrix])
  );
  if (mine !== turn) return;
  const kind = STATISTICS[current];
  byId("lines").setAttribute(
    "aria-label",
    `${kind.label} and learning rate over steps of ${layers.join(", ")}. The values are in the table above and in the CSV files.`
  );
  await drawLines(byId("lines"), {
    panels: panels.map((panel) => ({ ...panel, rates: rates.get(panel.run.name) })),
    layers,
    title: kind.label,
    logarithmic: choices.scale === "log" && !kind.signed && !kind.toOne,
    look,
    view: JSON.stringify([current, layers, panels.map(({ run }) => run.name)]),
  });
}

async function showRecords(chosen, current) {
  const answers = await Promise.allSettled(chosen.map(async (run) => ({ run, record: await fetchRecord(run) })));
  if (!current()) return;
  const entries = answers.flatMap((answer) => (answer.value?.record ? [answer.value] : []));
  drawHyperparameters(byId("hyperparameters"), byId("hyperparameters-note"), entries);
  const broken = answers.flatMap((answer, i) =>
    answer.status === "rejected" ? [`${chosen[i].name}: ${answer.reason.message}`] : []
  );
  if (broken.length) byId("hyperparameters-note").textContent = `⚠ ${broken.join("; ")}`;
  for (const box of byId("runs").querySelectorAll("input")) {
    const entry = entries.find(({ run }) => run.name === box.dataset.key);
    box.parentElement.querySelector(".badge")?.remove();
    if (entry) box.parentElement.append(statusBadge(entry.record));
  }
}

// Events ---------------------------------------------------------------------

async function load() {
  const before = JSON.stringify(runs);
  try {
    runs = await fetchRuns();
  } catch (error) {
    showProblems([`The runs can not be read: ${error.message}`]);
    return;
  }
  if (JSON.stringify(runs) !== before) await refresh();
}

function takeAddress() {
  choices = { ...DEFAULTS, ...readChoices() };
}

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

function soon(action, wait = 150) {
  let timer;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(action, wait);
  };
}

function connect() {
  byId("statistic").addEventListener("change", ({ target }) => choose({ stat: target.value }));
  for (const name of ["scale", "relative"]) {
    for (const radio of document.getElementsByName(name)) {
      radio.addEventListener("change", () => choose({ [name]: radio.value }));
    }
  }
  byId("layer-filter").addEventListener("input", soon(() => choose({ filter: byId("layer-filter").value })));
  byId("run-filter").addEventListener("input", soon(() => choose({ runfilter: byId("run-filter").value })));
  byId("toggle-runs").addEventListener("click", () => {
    const [chosen, listed] = [chosenRuns(), listedRuns()];
    const others = chosen.filter((run) => !listed.includes(run));
    const now = others.length < chosen.length ? others : [...others, ...listed];
    choose({ runs: JSON.stringify(now.map((run) => run.name)) });
  });
  byId("add-layer").addEventListener("change", ({ target }) => {
    const known = drawn && unionRows(drawn.panels).includes(target.value);
    if (known && !selectedLayers().includes(target.value)) toggleLayer(target.value);
    if (known) target.value = "";
  });
  byId("clear-layers").addEventListener("click", () => {
    byId("add-layer").focus(); // the button is about to hide
    choose({ layers: "[]" });
  });
  byId("drift-reset").addEventListener("click", () => {
    const { panels, rows } = drawn;
    const ranges = { "yaxis.range": [rows.length - 0.5, -0.5] };
    panels.forEach(({ matrix }, i) => {
      ranges[`xaxis${i ? i + 1 : ""}.range`] = [-0.5, matrix.first.length - 0.5];
    });
    window.Plotly.relayout(byId("heatmap"), ranges);
  });
  byId("drift-png").addEventListener("click", () => saveImage(byId("heatmap"), `layerwise-${drawn.statistic}.png`));
  byId("lines-png").addEventListener("click", () => saveImage(byId("lines"), `layerwise-${drawn.statistic}-layers.png`));
  byId("table").addEventListener("toggle", showTables);
  window.addEventListener("scroll", hideTooltip, { passive: true });
  const main = document.querySelector("main");
  let width = main.clientWidth;
  const resized = soon(refresh);
  new ResizeObserver(() => {
    if (!main.clientWidth || main.clientWidth === width) return; // hidden, or only taller
    width = main.clientWidth;
    resized();
  }).observe(main);
}

export async function start(ready) {
  library = ready;
  takeAddress();
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
    } else {
      keepChoices(); // TensorBoard's own navigation leaves a bare tab name
    }
  });
  await load();
  // TensorBoard says both at once when it has reloaded.
  const again = soon(load, 50);
  listen({ "experimental.DataReloaded": again, "experimental.RunsChanged": again });
}
