// Every chart as a file: PNG, SVG and CSV by the same three buttons.

import { byId, el } from "./dom.js";
import { savePicture } from "./pictures.js";

// A name that no spreadsheet takes for a formula, with quotes where it needs them.
function field(value) {
  if (typeof value !== "string") return Number.isNaN(value) || value === null ? "" : String(value);
  const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

export const csvText = ({ heads, rows }) => [heads, ...rows()].map((row) => `${row.map(field).join(",")}\r\n`);

const placeOf = (chart) => document.querySelector(`.files[data-chart="${chart.id}"]`);

// Fills each place that the page keeps beside a chart. lookOf(): the theme's colours.
export function putButtons(lookOf) {
  for (const place of document.querySelectorAll(".files")) {
    const { chart, name, of, only } = place.dataset;
    const pictures = (only ? [] : ["png", "svg"]).map((format) => {
      const button = el("button", { type: "button", id: `${name}-${format}`, ariaLabel: `${format.toUpperCase()} of ${of}` }, format.toUpperCase());
      button.addEventListener("click", () => savePicture(byId(chart), lookOf(), `layerwise-${name}`, format));
      return button;
    });
    place.append(...pictures, el("a", { id: `${name}-csv`, className: "button", download: `layerwise-${name}.csv`, ariaLabel: `CSV of ${of}` }, "CSV"));
    place.hidden = true;
  }
}

/**
 * Says what a chart that was just drawn has as values: an address whose answer is streamed, or
 * {heads, rows()} of what is here already. A chart that is hidden offers nothing.
 */
export function offer(chart, values) {
  const place = placeOf(chart);
  place.hidden = chart.hidden;
  const link = place.querySelector("a");
  if (typeof values === "string") {
    link.href = values;
    return;
  }
  link.href = "#";
  link.onclick = () => {
    if (link.href.startsWith("blob:")) URL.revokeObjectURL(link.href);
    link.href = URL.createObjectURL(new Blob(csvText(values), { type: "text/csv" }));
  };
}
