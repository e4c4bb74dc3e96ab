// One run's picture on a canvas: a pixel for each value, enlarged, with the marks on top.

import { COLOURS } from "./scale.js";
import { HELD, ORDER } from "./held.js";

const LINES = 3; // of a row: two for its weights, one for its averages
const NARROW = 40; // pixels of a picture that has room for colours only
export const isNarrow = (width) => width < NARROW;
export const stripOf = (width) => (isNarrow(width) ? 4 : 10);

// A little-endian pixel of a colour as #rrggbb.
export const pixel = (colour) => {
  const [r, g, b] = [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
  return ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
};

export const zeroColour = (dark) => (dark ? "#4d4d4d" : "#dedede");
const zeroLine = (dark) => (dark ? "#a0a0a0" : "#757575");

function fill(pixels, width, line, lines, values, scale, zero) {
  const colours = COLOURS[scale.map];
  for (let i = 0; i < width; i++) {
    const value = values[i];
    const place = scale.place(value);
    const colour = scale.isZero(value) ? zero : place === place ? colours[(place * 255) | 0] : 0;
    for (let j = 0; j < lines; j++) pixels[(line + j) * width + i] = colour;
  }
}

// A line through what is exactly zero: seen without colour, on every scale.
function strike(context, values, scale, y, each, dark) {
  context.fillStyle = zeroLine(dark);
  for (let i = 0; i < values.length; i++) {
    if (!scale.isZero(values[i])) continue;
    let end = i + 1;
    while (end < values.length && scale.isZero(values[end])) end++;
    context.fillRect(i * each, y, (end - i) * each, 1);
    i = end;
  }
}

/**
 * rows: [{values: {weights, averages}, held, marks}] from the top; scales: {weights, averages};
 * height: of a row in pixels. What is shown of marks is decided by the caller.
 */
export function paint(canvas, { rows, columns, scales, height, width, look }) {
  const ratio = Math.min(window.devicePixelRatio || 1, 32000 / (rows.length * height));
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(rows.length * height * ratio);
  canvas.style.width = `${width}px`;
  canvas.style.height = `${rows.length * height}px`;
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  const strip = stripOf(width);
  const wide = width - strip;
  if (columns) {
    const image = new ImageData(columns, rows.length * LINES);
    const pixels = new Uint32Array(image.data.buffer);
    const zero = pixel(zeroColour(look.dark));
    rows.forEach(({ values: { weights, averages } }, i) => {
      const lines = weights && averages ? 2 : LINES;
      if (weights) fill(pixels, columns, i * LINES, lines, weights, scales.weights, zero);
      if (averages) fill(pixels, columns, i * LINES + (weights ? 2 : 0), weights ? 1 : LINES, averages, scales.averages, zero);
    });
    const small = new OffscreenCanvas(columns, rows.length * LINES);
    small.getContext("2d").putImageData(image, 0, 0);
    context.imageSmoothingEnabled = false;
    context.drawImage(small, strip, 0, wide, rows.length * height);
  }
  const each = wide / Math.max(columns, 1);
  context.save();
  context.translate(strip, 0);
  rows.forEach(({ values: { weights, averages } }, i) => {
    const top = i * height;
    if (weights) strike(context, weights, scales.weights, Math.round(top + height * (averages ? 0.33 : 0.5)), each, look.dark);
    if (averages) strike(context, averages, scales.averages, Math.round(top + height * (weights ? 0.83 : 0.5)), each, look.dark);
  });
  context.restore();
  if (height >= 10) {
    context.fillStyle = look.paper;
    for (let i = 1; i < rows.length; i++) context.fillRect(0, i * height - 0.5, width, 1);
  }
  rows.forEach((row, i) => {
    if (row.held) paintHeld(context, row.held, i * height, height, strip);
    for (const mark of row.marks) paintMark(context, mark, strip + (mark.column + 0.5) * each, (i + 0.5) * height, height);
  });
}

// The strip tells states by shape too: whole, crossed, hollow, upper half.
function paintHeld(context, state, top, height, strip) {
  context.fillStyle = context.strokeStyle = HELD[state].colour;
  context.lineWidth = 1.5;
  const [x, y, w, h] = strip < 10 ? [0, top + 1, strip - 1, height - 2] : [1, top + 1, strip - 4, height - 2];
  if (state === "held") context.fillRect(x, y, w, h);
  else if (state === "unfrozen") context.fillRect(x, y, w, h / 2);
  else context.strokeRect(x + 0.5, y + 0.5, w - 1, h - 1);
  if (state !== "moved") return;
  context.beginPath();
  context.moveTo(x, y);
  context.lineTo(x + w, y + h);
  context.moveTo(x + w, y);
  context.lineTo(x, y + h);
  context.stroke();
}

function paintMark(context, mark, x, y, height) {
  context.font = `${Math.min(15, Math.max(9, height - 4))}px sans-serif`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.lineWidth = 3;
  context.strokeStyle = mark.alarm ? "#ffffff" : "#202020";
  context.fillStyle = mark.alarm ? "#d50000" : "#ffffff";
  context.strokeText(mark.glyph, x, y);
  context.fillText(mark.glyph, x, y);
}

// Of the layers in a closed group the state that matters most.
export function worst(states, members) {
  const found = members.map((leaf) => states?.get(leaf.key)?.state).filter(Boolean);
  const state = ORDER.find((name) => found.includes(name)) ?? null;
  // Some frozen, some not: only a wrong state stands for all.
  return state === "held" && found.length < members.length ? null : state;
}
