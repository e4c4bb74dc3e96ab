// From a statistic's value to a place on the colour scale, and what the scale's legend says.

import { brief } from "./dom.js";

// Viridis and a blue-white-orange pair are told apart with every common colour blindness.
const DIVERGING = [
  [0, "#2166ac"],
  [0.25, "#92c5de"],
  [0.5, "#f7f7f7"],
  [0.75, "#fdb863"],
  [1, "#b35806"],
];

export const STATISTICS = {
  l2: { label: "L2 distance", hint: "‖w − w₀‖₂, in the weight's unit" },
  relative_l2: { label: "Relative L2 distance", hint: "‖w − w₀‖₂ / ‖w₀‖₂" },
  cosine: { label: "Cosine", hint: "w·w₀ / (‖w‖‖w₀‖): 1 where the direction is kept", toOne: true },
  mean_shift: { label: "Mean shift", hint: "mean(w − w₀), in the weight's unit", signed: true },
  std_shift: { label: "Spread shift", hint: "std(w) − std(w₀), in the weight's unit", signed: true },
  max_abs: { label: "Largest change", hint: "max |w − w₀|, in the weight's unit" },
  norm: { label: "Norm", hint: "‖w‖₂, in the weight's unit", offset: true },
  update_ratio: { label: "Update ratio", hint: "‖w_t − w_s‖₂ / ‖w_s‖₂ since the record before" },
  nonfinite: { label: "Not finite", hint: "elements that are NaN or infinite" },
};

const DECADES = 8; // a scale over more would leave every layer the same colour
const SIGNED_DECADES = 4;

// Distance from "nothing moved", which is what relative and logarithmic scales are of.
const distance = (kind) => (kind.toOne ? (value) => 1 - value : (value) => value);

function extent(rows, transform) {
  let low = Infinity, high = -Infinity, positive = Infinity;
  for (const row of rows) {
    for (const value of row) {
      const size = transform(value);
      if (!Number.isFinite(size)) continue;
      if (size < low) low = size;
      if (size > high) high = size;
      if (size > 0 && size < positive) positive = size;
    }
  }
  return { low, high, positive };
}

export function niceTicks(low, high, wanted = 5) {
  if (!(high > low)) return [low];
  const raw = (high - low) / wanted;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw * 0.999);
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) ticks.push(i * step + 0);
  return ticks;
}

const percent = (share) => `${Number((share * 100).toPrecision(3))} %`;

/**
 * rows: the Float32Arrays that will be drawn, of all runs.
 * Returns {z(row) -> array, colorscale, low, high, ticks, labels, title}.
 */
export function colourScale(statistic, rows, { logarithmic, relative }) {
  const kind = STATISTICS[statistic];
  const from = distance(kind);
  const peak = (row) => {
    let found = 0;
    for (const value of row) {
      const size = Math.abs(from(value));
      if (size > found && Number.isFinite(size)) found = size;
    }
    return found || 1;
  };
  const peaks = relative ? new Map(rows.map((row) => [row, peak(row)])) : null;
  const scaled = (row) => {
    const divisor = peaks ? peaks.get(row) ?? peak(row) : 1;
    return (value) => from(value) / divisor;
  };
  const show = relative
    ? percent
    : kind.toOne ? (size) => String(Number((1 - size).toPrecision(6))) : brief;
  const title = relative ? `${kind.label}, of the layer's own largest` : kind.label;

  const all = relative
    ? rows.map((row) => Float64Array.from(row, scaled(row)))
    : rows;
  const range = extent(all, relative ? (value) => value : from);
  if (range.high === -Infinity) Object.assign(range, { low: 0, high: 1 });
  const largest = Math.max(Math.abs(range.low), Math.abs(range.high)) || 1;

  let place, low, high, ticks, labels;
  if (kind.signed && logarithmic) {
    const floor = largest / 10 ** SIGNED_DECADES;
    place = (size) => Math.sign(size) * Math.max(0, Math.log10(Math.abs(size) / floor));
    [low, high] = [-SIGNED_DECADES, SIGNED_DECADES];
    ticks = [-4, -2, 0, 2, 4];
    labels = ticks.map((t) => (t === 0 ? "0" : show(Math.sign(t) * floor * 10 ** Math.abs(t))));
  } else if (kind.signed) {
    place = (size) => size;
    [low, high] = [-largest, largest];
    ticks = niceTicks(low, high);
    labels = ticks.map(show);
  } else if (logarithmic) {
    place = (size) => (size > 0 ? Math.log10(size) : NaN);
    high = Math.log10(range.high > 0 ? range.high : 1);
    low = Math.max(Math.log10(Math.min(range.positive, range.high > 0 ? range.high : 1)), high - DECADES);
    if (high - low < 1e-6) low = high - 1;
    const decades = niceTicks(low, high).filter(Number.isInteger);
    ticks = decades.length > 1 ? decades : [low, (low + high) / 2, high];
    labels = ticks.map((t) => show(10 ** t));
  } else {
    place = (size) => size;
    low = kind.offset ? range.low : Math.min(0, range.low);
    high = range.high > low ? range.high : low + 1;
    ticks = niceTicks(low, high);
    labels = ticks.map(show);
  }
  const z = (row) => {
    const size = scaled(row);
    const placed = new Float64Array(row.length);
    for (let i = 0; i < row.length; i++) {
      const value = place(size(row[i]));
      placed[i] = Number.isFinite(value) ? value : NaN;
    }
    return placed;
  };
  return { z, low, high, ticks, labels, title, colorscale: kind.signed ? DIVERGING : "Viridis" };
}
