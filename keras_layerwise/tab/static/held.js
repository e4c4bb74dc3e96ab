// Is it really frozen? What each layer was told, against whether it moved.

import { layerOf } from "./tree.js";
import { columnAt } from "./values.js";

// Statistics that are exactly 0 while a weight is what it was; the last says nothing of a weight
// that began at 0, as a bias does.
export const DISTANCES = ["l2", "max_abs", "relative_l2"];

export const HELD = {
  moved: { label: "moved though frozen", colour: "#d50000", glyph: "✖" },
  still: { label: "trainable, but still", colour: "#ef6c00", glyph: "■" },
  unfrozen: { label: "unfrozen", colour: "#00897b", glyph: "▲" },
  held: { label: "held exactly", colour: "#1e88e5", glyph: "❄" },
};
export const ORDER = Object.keys(HELD); // of a group its worst is shown

const moves = (row, from, to) => {
  for (let i = from; i < to; i++) if (row[i] !== 0 && !Number.isNaN(row[i])) return true;
  return false;
};

// After it was frozen a weight need not be where it began, but it must stay.
const changes = (row, from) => {
  for (let i = from + 1; i < row.length; i++) {
    if (row[i] !== row[from] && !(Number.isNaN(row[i]) && Number.isNaN(row[from]))) return true;
  }
  return false;
};

/**
 * run: with its rows, alarms and changes; matrix: of one of DISTANCES; marks: of the run.
 * Returns a Map of layer -> {state, step}; layers that train and moved are not in it.
 */
export function heldStates(run, matrix, marks) {
  const found = new Map();
  const note = (layer, state, step = null) => {
    const before = found.get(layer);
    if (!before || ORDER.indexOf(state) < ORDER.indexOf(before.state)) found.set(layer, { state, step });
  };
  const alarms = new Map();
  const turns = new Map();
  for (const mark of marks) {
    if (mark.alarm) alarms.set(`${mark.kind} ${mark.row}`, mark);
    if (mark.kind === "frozen" || mark.kind === "unfrozen") {
      const layer = layerOf(mark.row);
      turns.set(layer, [...(turns.get(layer) ?? []), mark]);
    }
  }
  const count = matrix.first.length;
  for (const row of run.rows) {
    const layer = layerOf(row.name);
    const values = matrix.row(row.name);
    const alarm = alarms.get(`frozen_moved ${row.name}`);
    if (!alarm && !values?.some((value) => !Number.isNaN(value))) continue; // nothing is known
    const own = turns.get(layer) ?? [];
    const unfrozen = own.find((mark) => mark.kind === "unfrozen");
    const frozen = own.findLast((mark) => mark.kind === "frozen");
    if (alarm) note(layer, "moved", alarm.step);
    else if (row.frozen && unfrozen) {
      const until = columnAt(matrix, unfrozen.step);
      const end = matrix.last[until] <= unfrozen.step ? until + 1 : until;
      note(layer, moves(values, 0, end) ? "moved" : "unfrozen", unfrozen.step);
    } else if (row.frozen) {
      note(layer, moves(values, 0, count) ? "moved" : "held");
    } else if (frozen && !(unfrozen?.step > frozen.step)) {
      note(layer, changes(values, columnAt(matrix, frozen.step)) ? "moved" : "held", frozen.step);
    } else if (row.trainable && (alarms.has(`trainable_still ${row.name}`) || (count > 1 && values[count - 1] === 0 && !moves(values, 0, count)))) {
      note(layer, "still");
    }
  }
  return found;
}

const list = (names) => (names.length > 3 ? `${names.slice(0, 3).join(", ")} and ${names.length - 3} more` : names.join(", "));

// One sentence for one run.
function sentence(states) {
  const of = (wanted) => [...states].filter(([, { state }]) => state === wanted);
  const [held, moved, still, unfrozen] = ["held", "moved", "still", "unfrozen"].map(of);
  const frozen = held.length + moved.length + unfrozen.length;
  const parts = [];
  if (frozen) {
    parts.push(`${held.length + unfrozen.length} of ${frozen} frozen layer${frozen === 1 ? "" : "s"} held`);
    if (moved.length) parts.push(`${list(moved.map(([name]) => name))} moved though frozen`);
    if (unfrozen.length) {
      const steps = [...new Set(unfrozen.map(([, { step }]) => step))].sort((a, b) => a - b);
      parts.push(`${unfrozen.length} unfrozen at step ${list(steps.map(String))}`);
    }
  } else parts.push("nothing is frozen");
  if (still.length) parts.push(`${list(still.map(([name]) => name))} trainable, but still`);
  return parts.join("; ");
}

// held: [{run, states}]; of many runs those are named whose frozen layers did not all hold.
export function heldSentence(held) {
  if (held.length === 1) return `${sentence(held[0].states)}.`.replace(/^n/, "N");
  if (held.length <= 4) return held.map(({ run, states }) => `${run.name}: ${sentence(states)}.`).join(" ");
  const frozen = held.filter(({ states }) => [...states.values()].some(({ state }) => state !== "still"));
  const wrong = frozen.filter(({ states }) => [...states.values()].some(({ state }) => state === "moved"));
  if (!frozen.length) return `Nothing is frozen in these ${held.length} runs.`;
  const kept = `In ${frozen.length - wrong.length} of ${frozen.length} runs every frozen layer held.`;
  return wrong.length ? `${kept} Not in ${list(wrong.map(({ run }) => run.name))}.` : kept;
}
