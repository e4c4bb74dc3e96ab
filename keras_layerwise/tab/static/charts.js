// What both charts share: the theme, colours of runs, text that the library takes as text.

// The library reads a little markup in labels; entities keep names out of it.
export const plain = (text) =>
  String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

export const FONT = "Roboto, 'Helvetica Neue', Arial, 'Liberation Sans', sans-serif";

// After Okabe and Ito: told apart with every common colour blindness, readable on each ground.
const ON_LIGHT = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#7f7f7f"];
const ON_DARK = ["#56b4e9", "#e69f00", "#2cc295", "#f09ac4", "#ff7f50", "#f0e442", "#b39ddb", "#c0c0c0"];

// The first runs' colours are the table's; further ones go round the colour wheel by the golden angle.
export function colourAt(look, number) {
  if (number < look.colours.length) return look.colours[number];
  const turn = ((number - look.colours.length) * 137.508) % 360;
  return hslToHex(turn, 60, (look.dark ? 62 : 42) + ((number * 7) % 3) * 7);
}

function hslToHex(hue, saturation, lightness) {
  const amount = (saturation / 100) * Math.min(lightness, 100 - lightness) / 100;
  const channel = (n) => {
    const k = (n + hue / 30) % 12;
    return Math.round(255 * (lightness / 100 - amount * Math.max(-1, Math.min(k - 3, 9 - k, 1)))).toString(16).padStart(2, "0");
  };
  return `#${channel(0)}${channel(8)}${channel(4)}`;
}

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

// A logarithmic axis for values: a label for each decade, between them only where there are few.
export function logAxis(values) {
  const positive = values.filter((value) => value > 0 && value < Infinity);
  const many = positive.length && positive.reduce((a, b) => Math.max(a, b)) / positive.reduce((a, b) => Math.min(a, b)) > 30;
  return { type: "log", ...(many ? { dtick: 1 } : { dtick: "D2", tickformat: "~g" }) };
}

export const FADED = 0.15; // of what a filter leaves out

// Clicks on points and drags over them; each hands over the points' customdata. The handlers
// of the latest drawing hold.
export function onSelection(chart, handlers) {
  const wired = chart.handlers;
  chart.handlers = handlers;
  if (wired) return;
  chart.on("plotly_click", ({ points }) => points[0].customdata && chart.handlers.pick(points[0].customdata));
  chart.on("plotly_selected", (event) => {
    if (!event?.range) return; // the library says it again of what was drawn since
    chart.handlers.brush([...new Set(event.points.map(({ customdata }) => customdata).filter(Boolean))]);
  });
}

export const CONFIG = { displayModeBar: false, responsive: false, doubleClick: "reset" };
