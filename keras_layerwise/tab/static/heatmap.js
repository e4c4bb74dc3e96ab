// Layers × steps for one or more runs: the model's tree at the left, a picture for each run.

import { follow, pointAt } from "./cursor.js";
import { el, stepText } from "./dom.js";
import { isNarrow, paint, stripOf, worst } from "./paint.js";
import { gradient, niceTicks } from "./scale.js";
import { distinct, visible } from "./text.js";
import { layerOf } from "./tree.js";
import { columnAt, narrowed } from "./values.js";
import { axisOf } from "./axis.js";

const PIXELS_PER_COLUMN = 2;
const HEAD_LINES = 4; // that a run's name may take above its picture
const ON_END = 22; // letters of a name that stands above a narrow one
export const HEAD_LETTER = 7; // pixels of a letter in such a name
const TICK = 64; // pixels that a step's label takes

// Some runs are pictures with steps; many are stripes side by side, so that all are seen at once.
const sizes = (runs) => (runs <= 8 ? { narrowest: 76, gap: 14 } : runs <= 24 ? { narrowest: 72, gap: 6 } : { narrowest: 16, gap: 2 });
const gap = (runs) => sizes(runs).gap;
const axisWidth = (width) => Math.min(320, Math.max(190, width * 0.26));

function panelWidth(width, runs) {
  const room = width - axisWidth(width) - gap(runs) * runs - 14;
  return Math.max(sizes(runs).narrowest, Math.floor(room / runs));
}

// How many columns are worth asking for, in steps that a resized window seldom crosses.
export function columnsFor(width, runs) {
  return Math.max(50, Math.round(panelWidth(width, runs) / PIXELS_PER_COLUMN / 50) * 50);
}

export const rowHeight = (rows) => (rows <= 24 ? 22 : rows <= 100 ? 18 : 15);

// Round steps at the columns that hold them; columns need not be evenly spaced in steps.
export function stepTicks(matrix, width) {
  const { first, last } = matrix;
  const columns = first.length;
  if (!columns) return [];
  const wanted = Math.max(1, Math.floor(width / TICK));
  const ticks = [];
  for (const step of columns < 4 ? first : niceTicks(first[0], last[columns - 1], wanted)) {
    const column = columnAt(matrix, step);
    const x = ((column + 0.5) / columns) * width;
    if (step < first[column] || (ticks.length && x - ticks.at(-1).x < TICK) || x > width - TICK / 3) continue;
    ticks.push({ x, text: stepText(step) });
  }
  if (!ticks.length) ticks.push({ x: width * (1 - 0.5 / columns), text: stepText(last[columns - 1]) });
  return ticks;
}

// What a panel paints for each row; kept, so that opening a group paints its own rows only once.
function painted(panel, rows, most) {
  const at = new Map();
  rows.forEach((row, i) => row.members.forEach((leaf) => at.has(leaf.key) || at.set(leaf.key, i)));
  rows.forEach((row, i) => row.level === 2 && at.set(row.members[0].key, i));
  const columns = Math.min(panel.matrix.first.length, most);
  const cells = rows.map((row) => {
    const { weights, averages } = panel.values(row);
    return {
      values: { weights: narrowed(weights, columns, panel.reads), averages: narrowed(averages, columns, panel.reads) },
      held: panel.held ? worst(panel.held, row.members) : null,
      marks: [],
    };
  });
  const seen = new Set();
  for (const mark of panel.marks) {
    const i = at.get(layerOf(mark.row));
    if (i === undefined) continue;
    const { first, last } = panel.matrix;
    if (mark.step < first[0] || mark.step > last.at(-1)) continue;
    const column = Math.floor((columnAt(panel.matrix, mark.step) * columns) / panel.matrix.first.length);
    const key = `${mark.kind} ${column} ${i}`;
    if (!seen.has(key)) cells[i].marks.push({ ...mark, column });
    seen.add(key);
  }
  return { cells, columns };
}

const followed = new WeakMap(); // what ends the cursor of a chart drawn before

/**
 * panels: [{run, matrix, marks, held, values(row), colour}]; rows: of the tree, from shownRows;
 * scales: {weights, averages}; on: {hover(cell, event), leave, pick(row), toggle(row), zoom(span)}.
 */
export function drawHeatmap(chart, { panels, rows, scales, prefix, selected, look, on }) {
  followed.get(chart)?.();
  const width = chart.clientWidth;
  const each = panelWidth(width, panels.length);
  const height = rowHeight(rows.length);
  const left = chart.querySelector(".heat")?.scrollLeft ?? 0;
  const top = chart.querySelector(".heat")?.scrollTop ?? 0;
  const strip = stripOf(each), narrow = isNarrow(each);
  const names = distinct(panels.map(({ run }) => run.name), narrow ? ON_END : Math.floor((HEAD_LINES * each - 28) / HEAD_LETTER));
  const grid = el("div", { className: "heat", tabIndex: 0, role: "group", ariaLabel: "Pictures of the runs, scrollable" });
  grid.style.setProperty("--axis", `${axisWidth(width)}px`);
  grid.style.columnGap = `${gap(panels.length)}px`;
  grid.style.setProperty("--row", `${height}px`);
  grid.style.gridTemplateColumns = `${axisWidth(width)}px repeat(${panels.length}, ${each}px)`;
  const corner = el("div", { className: "corner" }, prefix ? el("span", { className: "hint", title: `Names begin with ${prefix}` }, `${prefix}…`) : null);
  grid.append(corner);
  panels.forEach(({ run, colour }, i) => {
    const head = el("div", { className: narrow ? "head on-end" : "head", title: visible(run.name) }, el("span", { className: "swatch", ariaHidden: "true" }), names[i]);
    head.firstChild.style.background = colour;
    grid.append(head);
  });
  const axis = axisOf(rows, { panels, selected, width: axisWidth(width), on });
  grid.append(axis);
  const lazy = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) continue;
      lazy.unobserve(target);
      target.picture();
    }
  }, { root: null, rootMargin: "200px" });
  const cursors = [];
  panels.forEach((panel) => {
    const canvas = el("canvas", { ariaHidden: "true" });
    const line = el("div", { className: "cursor", hidden: true });
    const brush = el("div", { className: "brush", hidden: true });
    const body = el("div", { className: "panel" }, canvas, line, brush);
    body.style.height = `${rows.length * height}px`;
    body.picture = () => {
      const { cells, columns } = painted(panel, rows, narrow ? each - strip : Infinity);
      paint(canvas, { rows: cells, columns, scales, height, width: each, look });
      body.dataset.painted = "yes";
    };
    lazy.observe(body);
    wire(body, { panel, rows, height, each, brush, on });
    cursors.push((step) => {
      const { matrix } = panel;
      const seen = step !== null && matrix.first.length && step >= matrix.first[0] && step <= matrix.last.at(-1);
      line.hidden = !seen;
      if (seen) line.style.transform = `translateX(${strip + ((columnAt(matrix, step) + 0.5) / matrix.first.length) * (each - strip)}px)`;
    });
    grid.append(body);
  });
  grid.append(el("div", { className: "foot corner hint" }, narrow ? "steps from left to right, in each" : "step"));
  for (const { matrix } of panels) {
    const ticks = (narrow ? [] : stepTicks(matrix, each - strip)).map(({ x, text }) => {
      const tick = el("span", {}, text);
      tick.style.left = `${strip + x}px`;
      return tick;
    });
    grid.append(el("div", { className: "foot ticks", ariaHidden: "true" }, ...ticks));
  }
  const focused = chart.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  chart.replaceChildren(grid);
  grid.scrollLeft = left;
  grid.scrollTop = top;
  if (focused) axis.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
  followed.set(chart, follow((step) => cursors.forEach((move) => move(step))));
}

function wire(body, { panel, rows, height, each, brush, on }) {
  const { matrix } = panel;
  const strip = stripOf(each);
  const place = (event) => {
    const box = body.getBoundingClientRect();
    const x = event.clientX - box.left - strip, y = event.clientY - box.top;
    const columns = matrix.first.length;
    return {
      x, row: rows[Math.floor(y / height)],
      column: Math.min(columns - 1, Math.max(0, Math.floor((x / (each - strip)) * columns))),
    };
  };
  let from = null;
  body.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    from = place(event);
    body.setPointerCapture(event.pointerId);
  });
  body.addEventListener("pointermove", (event) => {
    const { x, row, column } = place(event);
    if (!row || !matrix.first.length) return;
    pointAt(matrix.last[column]);
    if (from && Math.abs(x - from.x) > 4) {
      brush.hidden = false;
      brush.style.left = `${strip + Math.max(0, Math.min(x, from.x))}px`;
      brush.style.width = `${Math.abs(x - from.x)}px`;
      on.leave();
    } else on.hover({ panel, row, column }, event);
  });
  body.addEventListener("pointerup", (event) => {
    const start = from;
    from = null;
    if (!start?.row) return;
    const { x, column } = place(event);
    if (brush.hidden || Math.abs(x - start.x) <= 4) on.pick(start.row);
    else on.zoom([matrix.first[Math.min(column, start.column)], matrix.last[Math.max(column, start.column)]]);
    brush.hidden = true;
  });
  body.addEventListener("pointerleave", () => {
    on.leave();
    pointAt(null);
  });
}

// The scale as a bar with its values below.
export function legend(scale, name) {
  const bar = el("div", { className: "bar" });
  bar.style.background = gradient(scale.map);
  const ticks = scale.ticks.map(({ at, label }) => {
    const tick = el("span", {}, label);
    tick.style.left = `${at * 100}%`;
    return tick;
  });
  return el("div", { className: "legend", role: "img", ariaLabel: `${name}: ${scale.title}, from ${scale.ticks[0].label} to ${scale.ticks.at(-1).label}` },
    el("span", { className: "legend-title" }, `${name}: ${scale.title}`), bar, el("div", { className: "bar-ticks" }, ...ticks));
}
