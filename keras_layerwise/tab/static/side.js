// The choices on the left.

import { choices } from "./choices.js";
import { byId, count, el, refill, unseen } from "./dom.js";
import { statusBadge } from "./records.js";
import { MARKS, STATES } from "./marks.js";
import { HELD } from "./held.js";
import { distinct, isPattern, visible } from "./text.js";

const LETTER = 8; // pixels of one in a run's name
const AROUND = 92; // pixels for what stands beside a name
const STALE = 10; // minutes
export const RADIOS = ["scale", "relative", "axis"];
export const FIELDS = { "layer-filter": "filter", "run-filter": "runfilter" };

// How long a run that should be writing has not.
function silent(ended) {
  const minutes = (Date.now() / 1000 - ended) / 60;
  if (!(minutes > STALE)) return "";
  return minutes < 120 ? `${Math.round(minutes)} min` : minutes < 2880 ? `${Math.round(minutes / 60)} h` : `${Math.round(minutes / 1440)} d`;
}

function runItem(run, { chosen, short, alarms, record, onRun, colour }) {
  const box = el("input", { type: "checkbox", checked: chosen, "data-key": run.name });
  box.addEventListener("change", () => onRun(run));
  const silence = record?.status === "running" ? silent(run.ended) : "";
  const said = alarms ? count(alarms, "alarm") : "";
  const swatch = el("span", { className: "swatch", ariaHidden: "true" });
  swatch.style.background = colour;
  return el(
    "label",
    { className: "run", title: visible(run.name) },
    box,
    swatch,
    el("span", { className: "name", title: visible(run.name) }, el("bdi", {}, short)),
    said ? el("span", { className: "alarm", title: said }, "⚠ ", unseen(said)) : null,
    run.problems.length ? el("span", { className: "broken", title: run.problems.join("\n") }, "⚡ ", unseen("not all of it can be read")) : null,
    record ? statusBadge(record) : null,
    silence ? el("span", { className: "hint", title: `No record for ${silence}` }, silence) : null
  );
}

export function showRuns({ runs, listed, chosen, alarmsOf, records, onRun, colourOf }) {
  const most = Math.max(12, Math.floor((byId("runs").clientWidth - AROUND) / LETTER));
  const names = distinct(listed.map((run) => run.name), most);
  refill(
    byId("runs"),
    listed.map((run, i) =>
      runItem(run, { chosen: chosen.has(run), short: names[i], alarms: alarmsOf(run), record: records[run.name], onRun, colour: colourOf(run) })
    )
  );
  byId("run-count").textContent = runs.length ? `${chosen.size} of ${count(runs.length, "run")} chosen` : "";
}

export function showControls({ statistics, current, kind, references }) {
  const options = statistics.map(([value, label]) => el("option", { value, selected: value === current }, label));
  byId("statistic").replaceChildren(...options);
  byId("statistic").disabled = !options.length;
  byId("statistic-hint").textContent = kind?.hint ?? "";
  byId("reference").textContent = references.length ? `w₀: ${references.join("; ")}` : "";
  for (const name of RADIOS) {
    for (const radio of document.getElementsByName(name)) radio.checked = radio.value === choices[name];
  }
  byId("averages").checked = choices.averages === "shown";
  byId("smooth").value = choices.smooth;
  for (const [id, key] of Object.entries(FIELDS)) {
    if (byId(id) !== document.activeElement) byId(id).value = choices[key];
    byId(id).setAttribute("aria-invalid", String(!isPattern(choices[key])));
  }
}

export function showKey() {
  const entry = (glyph, text, kind = "") => el("li", {}, el("span", { className: `glyph ${kind}`, ariaHidden: "true" }, glyph), text);
  const changes = new Map(Object.values(MARKS).filter((m) => !m.alarm).map((m) => [m.glyph, m.label]));
  changes.set(MARKS.multiplier.glyph, "rate or decay changed");
  const strip = (state) => el("li", {}, el("span", { className: `glyph strip ${state}`, ariaHidden: "true" }), `strip: ${HELD[state].label}`);
  byId("key").replaceChildren(
    entry("⚠", "a run or layer with an alarm", "alarm"),
    entry("⚡", "a run that can not be read whole"),
    ...Object.values(MARKS).filter((mark) => mark.alarm).map((mark) => entry(mark.glyph, mark.label, "alarm")),
    ...[...changes].map(([glyph, label]) => entry(glyph, label)),
    ...Object.values(STATES).map(({ glyph, label }) => entry(glyph, label)),
    ...Object.keys(HELD).map(strip),
    entry("", "exactly zero: not moved at all", "zero"),
    entry("", "no value", "gap")
  );
}
