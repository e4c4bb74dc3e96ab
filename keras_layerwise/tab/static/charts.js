// What both charts share: the theme, text that the library takes as text, pictures as files.

import { download } from "./dom.js";

// The library reads a little markup in labels; entities keep names out of it.
export const plain = (text) =>
  String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

export const FONT = "Roboto, 'Helvetica Neue', Arial, 'Liberation Sans', sans-serif";

// After Okabe and Ito: told apart with every common colour blindness, readable on each ground.
const ON_LIGHT = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#7f7f7f"];
const ON_DARK = ["#56b4e9", "#e69f00", "#2cc295", "#f09ac4", "#ff7f50", "#f0e442", "#b39ddb", "#c0c0c0"];
export const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];

export function theme(dark) {
  return dark
    ? { colours: ON_DARK, dark, paper: "#303030", plot: "#3a3a3a", text: "#e8e8e8", soft: "#b0b0b0", line: "#555", accent: "#ff9f43" }
    : { colours: ON_LIGHT, dark, paper: "#ffffff", plot: "#f1f3f4", text: "#212121", soft: "#5f6368", line: "#dadce0", accent: "#c84600" };
}

export function base(look) {
  return {
    paper_bgcolor: look.paper,
    plot_bgcolor: look.plot,
    font: { family: FONT, size: 12, color: look.text },
    hoverlabel: {
      align: "left",
      bgcolor: look.dark ? "#1e1e1e" : "#ffffff",
      bordercolor: look.line,
      font: { family: FONT, size: 12, color: look.text },
    },
  };
}

export const CONFIG = { displayModeBar: false, responsive: false, doubleClick: "reset" };

let ruler;
export function textWidth(text, size) {
  ruler ??= document.createElement("canvas").getContext("2d");
  ruler.font = `${size}px ${FONT}`;
  return ruler.measureText(text).width;
}

// A path's end says more than its beginning. Names can have thousands of characters: of these
// no more is measured than may fit, and the cut is searched by halving.
export function shortened(text, size, width) {
  const most = Math.ceil(width / (size / 8));
  if (text.length <= most && textWidth(text, size) <= width) return text;
  let low = Math.max(1, text.length - most), high = text.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (textWidth("…" + text.slice(middle), size) > width) low = middle + 1;
    else high = middle;
  }
  return "…" + text.slice(low);
}

export async function saveImage(chart, name) {
  const { width, height } = chart.getBoundingClientRect();
  const url = await window.Plotly.toImage(chart, { format: "png", width, height, scale: 2 });
  download(url, name);
}
