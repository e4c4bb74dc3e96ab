// Which run is better, and what did it differ in? A row for each run.

import { choices, listOf, objectOf } from "./choices.js";
import { admits, bestOf, columnsOf, sorted } from "./columns.js";
import { el, float32, fourDigits, refill } from "./dom.js";
import { offer } from "./files.js";
import { pixel, zeroColour } from "./paint.js";
import { statusBadge } from "./records.js";
import { COLOURS } from "./scale.js";
import { distinct, isPattern, matcher, visible } from "./text.js";
import { leavesBelow } from "./tree.js";
import { halves } from "./values.js";

const NAME = 26; // characters of a run's name that its cell has room for
const PICTURE = { width: 96, height: 18 };

// Final drift by part of the model, as one row of colours.
function finalPicture(panel, { tree, scale, kind, look }) {
  const canvas = el("canvas", { className: "small", role: "img", ariaLabel: "Final drift from stem to head" });
  if (!panel?.matrix.first.length || !scale) return canvas;
  const last = panel.matrix.first.length - 1;
  const values = tree.nodes.map((node) => halves(panel.matrix, { ...node, members: leavesBelow(node) }, kind.reads).weights?.[last] ?? NaN);
  [canvas.width, canvas.height] = [values.length, 1];
  const image = new ImageData(values.length, 1);
  const pixels = new Uint32Array(image.data.buffer);
  values.forEach((value, i) => {
    const place = scale.place(value);
    pixels[i] = scale.isZero(value) ? pixel(zeroColour(look.dark)) : place === place ? COLOURS[scale.map][(place * 255) | 0] : 0;
  });
  canvas.getContext("2d").putImageData(image, 0, 0);
  canvas.style.cssText = `width:${PICTURE.width}px;height:${PICTURE.height}px`;
  canvas.title = `Final ${kind.label}: ${values.map((v) => float32(v)).join(", ")}`.slice(0, 400);
  return canvas;
}

// Rules folded into their curve: multipliers from stem to head, each decade as high as the last.
function ruleCurve(multipliers, tree) {
  const values = tree.leaves.map((leaf) => multipliers[leaf.key]).filter((value) => value !== undefined);
  if (!values.length) return "";
  const { width, height } = PICTURE;
  const y = (value) => (value > 0 ? Math.min(height - 2, 2 + (-Math.log10(value) / 4) * (height - 4)) : height - 1);
  const points = values.map((value, i) => `${((i + 0.5) / values.length) * width},${Math.max(1, y(value)).toFixed(1)}`).join(" ");
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("width", width);
  svg.setAttribute("height", height);
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `Multipliers from ${float32(values[0])} to ${float32(values.at(-1))}`);
  const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
  line.setAttribute("points", points);
  line.setAttribute("class", "curve");
  svg.append(line);
  return svg;
}

const csvValue = (value) => (value === undefined ? "" : typeof value === "object" ? JSON.stringify(value) : value);

/** runs: chosen; records: by name; panels: of the heat-map; on: {sort, where, pair}. */
export function drawSweep(target, { runs, records, problems, panels, tree, scale, kind, look, colourOf, on }) {
  const columns = columnsOf(records);
  const where = objectOf("where"), pair = listOf("pair");
  const rows = runs.filter((run) => records[run.name]).map((run) => ({ run, record: records[run.name] }));
  const broken = runs.filter((run) => problems[run.name]);
  const brushed = new Set(listOf("brush"));
  const admitted = rows.filter(({ run, record }) =>
    (!brushed.size || brushed.has(run.name)) && matcher(where.run)(run.name) && columns.every(({ key, value }) => admits(where[key], value(record)))
  );
  const names = new Map(distinct(runs.map((run) => run.name), NAME).map((name, i) => [runs[i], name]));
  const hasCurve = rows.some(({ record }) => Object.keys(record.multipliers).length);
  const best = new Map(columns.filter(({ result }) => result).map((column) => [column, bestOf(admitted.map(({ record }) => column.value(record)), column.title)]));
  const head = (column) => {
    const direction = choices.sort === column.key ? "ascending" : choices.sort === `-${column.key}` ? "descending" : "none";
    const button = el("button", { type: "button", className: "quiet sort", "data-key": `sort ${column.key}`, title: visible([column.name, ...column.also].join(" = ")) }, visible(column.title), { ascending: " ▴", descending: " ▾", none: "" }[direction]);
    button.addEventListener("click", () => on.sort(direction === "ascending" ? `-${column.key}` : column.key));
    return el("th", { scope: "col", "aria-sort": direction }, button);
  };
  const filter = (key, title) => {
    const invalid = where[key] && !/\.\.|^[<>]/.test(where[key]) && !isPattern(where[key]);
    const input = el("input", { type: "text", value: where[key] ?? "", placeholder: key === "run" ? "regex" : "a..b, >a", ariaLabel: `Filter ${title}`, "data-key": `filter ${key}`, "aria-invalid": String(Boolean(invalid)) });
    input.addEventListener("change", () => on.where({ ...where, [key]: input.value || undefined }));
    return el("td", {}, input);
  };
  const bodyRow = ({ run, record }) => {
    const chosen = pair.includes(run.name);
    const box = el("input", { type: "checkbox", checked: chosen, ariaLabel: `Compare ${visible(run.name)}`, "data-key": `pair ${run.name}` });
    box.addEventListener("change", () => on.pair(chosen ? pair.filter((name) => name !== run.name) : [...pair, run.name].slice(-2)));
    const swatch = el("span", { className: "swatch", ariaHidden: "true" });
    swatch.style.background = colourOf(run);
    return el(
      "tr",
      { className: chosen ? "chosen" : "" },
      el("td", {}, box),
      el("th", { scope: "row", title: visible(run.name) }, swatch, names.get(run)),
      el("td", {}, statusBadge(record)),
      ...columns.map((column) => {
        const value = column.value(record);
        const whole = value === undefined ? "—" : visible(typeof value === "object" ? JSON.stringify(value) : value);
        const text = typeof value === "number" ? fourDigits(value) : whole;
        const kinds = [typeof value === "number" ? "number" : "", best.get(column) === value ? "best" : ""];
        return el("td", { className: kinds.filter(Boolean).join(" "), title: whole }, text);
      }),
      el("td", { className: "kept" }, finalPicture(panels.find((panel) => panel.run === run), { tree, scale, kind, look })),
      hasCurve ? el("td", { className: "kept" }, ruleCurve(record.multipliers, tree)) : null
    );
  };
  const heads = [el("th", { scope: "col" }, "Compare"), el("th", { scope: "col" }, "Run"), el("th", { scope: "col" }, "Status"), ...columns.map(head),
    el("th", { scope: "col", className: "kept" }, "Final drift"), hasCurve ? el("th", { scope: "col", className: "kept" }, "Rules") : null];
  const filters = [el("td", {}), filter("run", "runs"), el("td", {}), ...columns.map((column) => filter(column.key, column.title)), el("td", { className: "kept" }), hasCurve ? el("td", { className: "kept" }) : null];
  const table = el(
    "table",
    { className: "sheet sweep" },
    el("caption", {}, `${admitted.length} of ${rows.length} runs; only what differs, what was set before what follows from it`),
    el("thead", {}, el("tr", {}, ...heads), el("tr", { className: "filters" }, ...filters)),
    el("tbody", {}, ...sorted(admitted, columns, choices.sort).map(bodyRow), ...broken.map((run) =>
      el("tr", { className: "broken" }, el("td", {}), el("th", { scope: "row" }, names.get(run)), el("td", { colSpan: columns.length + 3, className: "alarm" }, `⚡ ${visible(problems[run.name])}`))))
  );
  offer(target, {
    heads: ["run", "status", ...columns.map(({ name }) => name)],
    rows: () => sorted(admitted, columns, choices.sort).map(({ run, record }) => [run.name, String(record.status), ...columns.map(({ value }) => csvValue(value(record)))]),
  });
  refill(target, [el("div", { className: "scroll", tabIndex: 0, role: "region", ariaLabel: "Table of runs" }, table)]);
  return admitted.map(({ run }) => run);
}
