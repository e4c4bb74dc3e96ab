// From a statistic's value to a colour, and what the legend of the colours says.

import { brief } from "./dom.js";

// What a person calls the built-in statistics; formula, unit and how they read come with the log.
export const LABELS = {
  l2: "L2 distance",
  relative_l2: "Relative L2 distance",
  cosine: "Cosine",
  mean_shift: "Mean shift",
  std_shift: "Spread shift",
  max_abs: "Largest change",
  norm: "Norm",
  update_ratio: "Update ratio",
  nonfinite: "Not finite",
  rates: "Learning rate",
};

export function kindOf(name, facts) {
  const { formula, unit, reads = "rising" } = facts[name] ?? {};
  const hint = name === "rates" ? "each layer's own rate; 0 where it is frozen" : formula;
  const measured = unit?.startsWith("of ") ? `in the unit ${unit}` : `in ${unit}`;
  return { label: LABELS[name] ?? name, hint: unit && unit !== "1" ? `${hint}, ${measured}` : hint, reads, offset: name === "norm" };
}

// Told apart with every common colour blindness, and evenly perceived.
const MAPS = {
  weights: ["#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725"],
  averages: ["#0b0724", "#3b0f70", "#8c2981", "#de4968", "#fe9f6d", "#fcfdbf"],
  signed: ["#2166ac", "#92c5de", "#f7f7f7", "#fdb863", "#b35806"],
};

function table(stops) {
  const channels = stops.map((colour) => [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16)));
  const colours = new Uint32Array(256);
  for (let i = 0; i < 256; i++) {
    const place = (i / 255) * (stops.length - 1);
    const low = Math.min(Math.floor(place), stops.length - 2);
    const [r, g, b] = channels[low].map((c, j) => Math.round(c + (channels[low + 1][j] - c) * (place - low)));
    colours[i] = (255 << 24) | (b << 16) | (g << 8) | r; // as a little-endian pixel
  }
  return colours;
}

export const COLOURS = Object.fromEntries(Object.entries(MAPS).map(([name, stops]) => [name, table(stops)]));
export const gradient = (name) => `linear-gradient(to right, ${MAPS[name].join(", ")})`;

const DECADES = 8; // a scale over more would leave every layer the same colour
const SIGNED_DECADES = 4;

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
const identity = (value) => value;

/**
 * kind: from kindOf; rows: Float32Arrays that will be drawn, of all runs, already divided where
 * colours are relative. Returns {place(value) -> 0..1 or NaN, isZero(value), ticks: [{at, label}],
 * title, map}. "Nothing moved" has no place on the scale: it has a mark of its own.
 */
export function colourScale(kind, rows, { logarithmic, relative, half = "weights" }) {
  const falling = kind.reads === "falling", signed = kind.reads === "signed";
  const distance = falling && !relative ? (value) => 1 - value : identity;
  let low = Infinity, high = -Infinity, smallest = Infinity;
  for (const row of rows) {
    for (let i = 0; i < row.length; i++) {
      const size = distance(row[i]);
      if (!(size - size === 0)) continue; // NaN or infinite
      if (size < low) low = size;
      if (size > high) high = size;
      const magnitude = Math.abs(size);
      if (magnitude > 0 && magnitude < smallest) smallest = magnitude;
    }
  }
  if (high === -Infinity) [low, high] = [0, 1];
  const largest = Math.max(Math.abs(low), Math.abs(high)) || 1;
  const show = relative
    ? percent
    : falling ? (size) => String(Number((1 - size).toPrecision(6))) : brief;
  let put, ticks, text = show;
  if (signed && logarithmic) {
    const floor = largest / 10 ** SIGNED_DECADES;
    put = (size) => Math.sign(size) * Math.max(0, Math.log10(Math.abs(size) / floor));
    [low, high] = [-SIGNED_DECADES, SIGNED_DECADES];
    ticks = [-4, -2, 0, 2, 4];
    text = (t) => (t === 0 ? "0" : show(Math.sign(t) * floor * 10 ** Math.abs(t)));
  } else if (signed) {
    put = identity;
    [low, high] = [-largest, largest];
    ticks = niceTicks(low, high);
  } else if (logarithmic) {
    put = (size) => (size > 0 ? Math.log10(size) : NaN);
    high = Math.log10(high > 0 ? high : 1);
    low = Math.max(Math.log10(Math.min(smallest, 10 ** high)), high - DECADES);
    if (high - low < 1e-6) low = high - 1;
    const decades = niceTicks(low, high).filter(Number.isInteger);
    ticks = decades.length > 1 ? decades : [low, (low + high) / 2, high];
    text = (t) => show(10 ** t);
  } else {
    put = identity;
    low = kind.offset ? low : Math.min(0, low);
    if (!(high > low)) high = low + 1;
    ticks = niceTicks(low, high);
  }
  return {
    place: (value) => Math.min(1, Math.max(0, (put(distance(value)) - low) / (high - low))),
    isZero: (value) => distance(value) === 0,
    ticks: ticks.map((tick) => ({ at: (tick - low) / (high - low), label: text(tick) })),
    title: relative ? `${kind.label}, of the layer's own largest in all runs` : kind.label,
    map: signed ? "signed" : half,
  };
}

// The largest distance from "nothing moved" in the rows of one layer, over all runs.
export function peak(rows, kind) {
  const falling = kind.reads === "falling";
  let found = 0;
  for (const row of rows) {
    for (const value of row) {
      const size = Math.abs(falling ? 1 - value : value);
      if (size > found && Number.isFinite(size)) found = size;
    }
  }
  return found || 1;
}

// A row as shares of a peak: distances from "nothing moved", also of what falls.
export function shares(row, divisor, kind) {
  return kind.reads === "falling" ? row.map((value) => (1 - value) / divisor) : row.map((value) => value / divisor);
}
