// The frozen records of runs, side by side, what differs on top.

import { causesFirst, isCause, shown } from "./causes.js";
import { count, el, refill, sixDigits } from "./dom.js";
import { visible } from "./text.js";

const GROUPS = {
  user: "User",
  training: "Training",
  regularization: "Regularization",
  architecture: "Architecture",
  runtime: "Runtime",
};
const OPEN_UP_TO = 40;
const ABSENT = "—";

const FINGERPRINTS = {
  hyperparameters: { label: "Hyperparameters", same: "same hyperparameters" },
  runtime: { label: "Runtime", same: "same runtime" },
  initial_weights: { label: "Initial weights", same: "same start" },
  final_weights: { label: "Final weights", same: "same result" },
};

const STATUS = { running: "◔", finished: "✔", failed: "✖", diverged: "◆" };

export function statusBadge(record) {
  const status = String(record.status);
  return el(
    "span",
    { className: `badge ${status in STATUS ? status : ""}`, title: visible(record.error ?? status) },
    STATUS[status] ?? "?",
    el("span", { className: "word" }, ` ${status}`)
  );
}

function row(label, cells, properties = {}) {
  return el("tr", properties, el("th", { scope: "row" }, label), ...cells);
}

const cell = (text) => el("td", {}, el("div", { className: "value" }, visible(text)));

const differs = (key, records) =>
  new Set(records.map((record) => record.values[key])).size > 1;

function table(runs, caption, rows) {
  return el(
    "table",
    { className: "sheet" },
    el("caption", { className: "unseen" }, caption),
    el(
      "thead",
      {},
      el("tr", {}, el("td"), ...runs.map((run) => el("th", { scope: "col" }, visible(run.name))))
    ),
    el("tbody", {}, ...rows)
  );
}

// A long list is only built when it is opened.
function section(key, title, note, open, build) {
  const body = el("div", { className: "scroll" });
  const details = el(
    "details",
    { open, "data-key": key },
    el("summary", { "data-key": `summary ${key}` }, el("span", { className: "name" }, title), " ", el("span", { className: "hint" }, note)),
    body
  );
  const fill = () => details.open && !body.children.length && body.append(build());
  details.addEventListener("toggle", fill);
  fill();
  return details;
}

function fingerprintRows(runs, records) {
  return Object.entries(FINGERPRINTS).map(([kind, { label, same }]) => {
    const prints = records.map((record) => record.fingerprints?.[kind]);
    const cells = prints.map((print, i) => {
      if (!print) return cell(ABSENT);
      const equal = runs.filter((_, j) => j !== i && prints[j] === print).map((run) => run.name);
      return el(
        "td",
        {},
        el("code", { title: String(print) }, String(print).slice(0, 12)),
        equal.length ? el("span", { className: "badge same" }, `= ${same} as ${equal.join(", ")}`) : null
      );
    });
    return row(`${label} fingerprint`, cells);
  });
}

const REMARKS = { changes: ", as planned", overrides: ", by override", violations: ", unplanned", phases: ", between two fits" };

const eventLines = (record) =>
  record.events.map(({ kind, step, text }) => `${step === null ? "before training" : `step ${step}`}: ${text}${REMARKS[kind] ?? ""}`);

function resultRows(records) {
  const keys = new Set();
  for (const record of records) {
    for (const [kind, values] of Object.entries(record.results ?? {})) {
      for (const name of Object.keys(values ?? {})) keys.add(JSON.stringify([kind, name]));
    }
  }
  return [...keys].map((key) => {
    const [kind, name] = JSON.parse(key);
    const values = records.map((record) => record.results?.[kind]?.[name]);
    return row(`${kind} ${name}`, values.map((value) => cell(value === undefined ? ABSENT : sixDigits(value))));
  });
}

function summaryRows(runs, records) {
  const time = (text) => (text ? String(text).replace("T", " ").replace(/(\.\d+)?\+00:00$/, " UTC") : ABSENT);
  const rows = [
    row("Status", records.map((record) => el("td", {}, statusBadge(record)))),
    row("Started", records.map((record) => cell(time(record.started)))),
    row("Ended", records.map((record) => cell(time(record.ended)))),
  ];
  if (records.some((record) => record.error)) {
    rows.push(row("Error", records.map((record) => cell(record.error ? String(record.error) : ABSENT))));
  }
  const events = records.map(eventLines);
  if (events.some((lines) => lines.length)) {
    const lists = events.map((lines) =>
      el("td", {}, el("ul", { className: "value" }, ...lines.map((line) => el("li", {}, line))))
    );
    rows.push(row("What changed", lists));
  }
  return [...rows, ...resultRows(records), ...fingerprintRows(runs, records)];
}

// entries: [{run, record}]; the section of all values of a run is filled when it is opened.
export function drawRecords(target, note, entries) {
  const runs = entries.map((entry) => entry.run);
  const records = entries.map((entry) => entry.record);
  note.textContent = runs.length ? "" : "None of the chosen runs has a record: add FreezeHyperparameters to its callbacks.";
  if (!runs.length) {
    target.replaceChildren();
    return;
  }
  const opened = new Map([...target.querySelectorAll("details")].map((d) => [d.dataset.key, d.open]));
  const keys = [...new Set(records.flatMap((record) => Object.keys(record.values)))];
  const valueRow = (key, label) => {
    const cells = records.map((record) => cell(shown(record.values[key])));
    return row(label, cells, differs(key, records) ? { className: "differs" } : {});
  };
  const sections = [["run", "Run", "", true, () => table(runs, "Run", summaryRows(runs, records))]];
  if (runs.length > 1) {
    const different = causesFirst(keys.filter((key) => differs(key, records)));
    const direct = different.filter(isCause), derived = different.filter((key) => !isCause(key));
    const rows = (some) => () => table(runs, "What differs", some.map((key) => valueRow(key, key)));
    const text = different.length ? count(direct.length, "value") : "nothing: every value is the same";
    sections.push(["differs", "What differs", text, direct.length > 0, rows(direct)]);
    if (derived.length) {
      sections.push(["derived", "What differs in single layers and the machine", count(derived.length, "value"), false, rows(derived)]);
    }
  }
  for (const [group, title] of Object.entries(GROUPS)) {
    const own = keys.filter((key) => key === group || key.startsWith(`${group}/`));
    if (!own.length) continue;
    const open = runs.length === 1 && own.length <= OPEN_UP_TO && group !== "runtime";
    sections.push([
      group, title, count(own.length, "value"), open,
      () => table(runs, title, own.map((key) => valueRow(key, key.slice(group.length + 1) || key))),
    ]);
  }
  refill(
    target,
    sections.map(([key, title, text, open, build]) => section(key, title, text, opened.get(key) ?? open, build))
  );
}
