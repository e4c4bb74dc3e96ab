// Two runs: the log ratio of their drift, and the layers in which they differ most.

import { drawHeatmap, legend } from "./heatmap.js";
import { brief, byId, el } from "./dom.js";
import { offer } from "./files.js";
import { colourScale } from "./scale.js";
import { distinct, visible } from "./text.js";
import { columnAt, halves } from "./values.js";

const RANKED = 10;

// Distances from "nothing moved" compared at the same steps: log₁₀ a/b, NaN where one has not moved.
export function logRatio(a, b, matrixA, matrixB, falling) {
  const size = (value) => Math.abs(falling ? 1 - value : value);
  return Float32Array.from(a, (value, i) => {
    const [x, y] = [size(value), size(b[columnAt(matrixB, matrixA.last[i])])];
    if (x === 0 && y === 0) return 0;
    return x > 0 && y > 0 && x < Infinity && y < Infinity ? Math.log10(x / y) : NaN;
  });
}

export function drawDifference(chart, { panels: [a, b], tree, rows, kind, look, on }) {
  const [one, other] = distinct([a.run.name, b.run.name], 40);
  const ratio = { reads: "signed", label: `log₁₀ of ${kind.label}, ${one} over ${other}` };
  const made = new Map();
  const values = (row) => {
    const key = `${row.key} ${row.members.length}`;
    if (!made.has(key)) {
      const [x, y] = [a, b].map((panel) => halves(panel.matrix, row, kind.reads));
      const of = (half) => (x[half] && y[half] ? logRatio(x[half], y[half], a.matrix, b.matrix, kind.reads === "falling") : null);
      made.set(key, { weights: of("weights"), averages: of("averages") });
    }
    return made.get(key);
  };
  const all = tree.leaves.map((leaf) => ({ leaf, found: values({ ...leaf, members: [leaf] }) }));
  const scale = colourScale(ratio, all.flatMap(({ found }) => [found.weights, found.averages].filter(Boolean)), {});
  const run = { name: `${one} ÷ ${other}`, rows: a.run.rows };
  const panel = { run, matrix: a.matrix, marks: [], held: null, values, own: values, reads: "signed", colour: "transparent" };
  drawHeatmap(chart, { panels: [panel], rows, scales: { weights: scale, averages: scale }, prefix: tree.prefix, selected: new Set(), look, on });
  const halvesOf = all.flatMap(({ leaf, found }) => ["weights", "averages"].filter((half) => found[half]).map((half) => [leaf[half], found[half]]));
  offer(chart, {
    heads: ["step", ...halvesOf.map(([name]) => name)],
    rows: () => Array.from(a.matrix.last, (step, i) => [step, ...halvesOf.map(([, row]) => row[i])]),
  });
  byId("difference-legend").replaceChildren(legend(scale, "Ratio"));
  const last = a.matrix.first.length - 1;
  const ranked = all.map(({ leaf, found }) => ({ leaf, value: found.weights?.[last] ?? NaN })).filter(({ value }) => value !== 0 && !Number.isNaN(value))
    .sort((x, y) => Math.abs(y.value) - Math.abs(x.value)).slice(0, RANKED);
  byId("ranked").replaceChildren(...ranked.map(({ leaf, value }) =>
    el("li", {}, el("strong", {}, visible(leaf.key)), ` moved ${brief(10 ** Math.abs(value))} times as far in ${visible((value > 0 ? a : b).run.name)}`)));
}
