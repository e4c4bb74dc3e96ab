// The model's tree beside the pictures: names, states, and a way in for the keyboard.

import { el } from "./dom.js";
import { STATES, stateOf } from "./marks.js";
import { middleCut, visible } from "./text.js";
import { layerOf } from "./tree.js";

const LETTER = 6.6; // pixels, of most; the style cuts what is wider still
const AROUND = 56; // pixels for what stands beside a name

const known = new WeakMap(); // states of the panels that are shown: opening a group changes none

// A row's states in all runs: frozen, frozen in some, without weights that train.
function statesOf(panels) {
  if (known.has(panels)) return known.get(panels);
  const found = new Map();
  known.set(panels, found);
  for (const { run, marks } of panels) {
    const trained = new Set(run.rows.filter((row) => row.trainable).map((row) => row.name));
    for (const row of run.rows) {
      const layer = layerOf(row.name);
      const states = found.get(layer) ?? new Set();
      const state = stateOf(row, marks);
      if (state !== "still" || !trained.has(layer)) states.add(state);
      found.set(layer, states);
    }
  }
  return found;
}

function stateOfMembers(members, states) {
  const all = members.map((leaf) => states.get(leaf.key) ?? new Set());
  const has = (state) => all.some((own) => own.has(state));
  const only = (state) => all.every((own) => own.size === 1 && own.has(state));
  return only("frozen") ? "frozen" : only("still") ? "still" : has("frozen") ? "differs" : null;
}

export function axisOf(rows, { panels, selected, width, on }) {
  const most = Math.floor((width - AROUND) / LETTER);
  const alarmed = new Set(panels.flatMap(({ marks }) => marks.filter((mark) => mark.alarm).map((mark) => layerOf(mark.row))));
  const states = statesOf(panels);
  const axis = el("div", { className: "axis", role: "tree", ariaLabel: "Layers of the model", "aria-multiselectable": "true" });
  const items = rows.map((row, i) => {
    const state = stateOfMembers(row.members, states);
    const alarm = row.members.some((leaf) => alarmed.has(leaf.key));
    const chosen = row.size === null && selected.has(row.key);
    const item = el(
      "div",
      {
        className: `item level${row.level}${chosen ? " chosen" : ""}`, role: "treeitem", tabIndex: i ? -1 : 0,
        "data-key": row.key, "aria-level": String(row.level), title: visible(row.key.replace(/^(part|path):/, "")),
        "aria-expanded": row.size === null ? null : String(row.open),
        "aria-selected": row.size === null ? String(chosen) : null,
      },
      row.size === null ? null : el("span", { className: "twist", ariaHidden: "true" }, row.open ? "▾" : "▸"),
      alarm ? el("span", { className: "alarm", role: "img", ariaLabel: "alarm" }, "⚠ ") : null,
      state ? el("span", { className: "state", role: "img", ariaLabel: STATES[state].label }, `${STATES[state].glyph} `) : null,
      el("span", { className: "label" }, el("bdi", {}, middleCut(row.label || row.key, most))),
      row.size === null ? null : el("span", { className: "hint" }, ` ${row.size}`)
    );
    item.addEventListener("click", () => (row.size === null ? on.pick(row) : on.toggle(row)));
    return item;
  });
  axis.append(...items);
  axis.addEventListener("keydown", (event) => move(event, items, rows, on));
  return axis;
}

function move(event, items, rows, on) {
  const at = items.indexOf(document.activeElement);
  if (at < 0) return;
  const row = rows[at];
  const to = (i) => {
    if (!items[i]) return;
    items[at].tabIndex = -1;
    items[i].tabIndex = 0;
    items[i].focus();
  };
  const act = {
    ArrowDown: () => to(at + 1),
    ArrowUp: () => to(at - 1),
    Home: () => to(0),
    End: () => to(items.length - 1),
    Enter: () => (row.size === null ? on.pick(row) : on.toggle(row)),
    " ": () => (row.size === null ? on.pick(row) : on.toggle(row)),
    ArrowRight: () => (row.size !== null && !row.open ? on.toggle(row) : to(at + 1)),
    ArrowLeft: () => {
      if (row.size !== null && row.open) on.toggle(row);
      else to(rows.findLastIndex((other, i) => i < at && other.level < row.level));
    },
  }[event.key];
  if (!act) return;
  event.preventDefault();
  act();
}
