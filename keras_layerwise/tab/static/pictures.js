// Pictures as files: SVG and PNG of the heat-map and of charts.

import { download } from "./dom.js";
import { HEAD_LETTER } from "./heatmap.js";

const escaped = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll('"', "&quot;");

// A name in lines of so many characters, as the page breaks it.
const wrapped = (text, most) => text.match(new RegExp(`.{1,${Math.max(1, most)}}`, "gu")) ?? [];

// The heat-map as it is laid out, canvases as images and words as text, scrolled parts too.
export function heatmapSvg(chart, look) {
  const grid = chart.querySelector(".heat");
  for (const panel of grid.querySelectorAll(".panel:not([data-painted])")) panel.picture();
  const [left, top] = [grid.scrollLeft, grid.scrollTop];
  grid.scrollTo(0, 0);
  const origin = grid.getBoundingClientRect();
  const [width, height] = [grid.scrollWidth, grid.scrollHeight];
  const place = (element) => {
    const box = element.getBoundingClientRect();
    return { x: box.left - origin.left, y: box.top - origin.top, w: box.width, h: box.height };
  };
  const parts = [`<rect width="100%" height="100%" fill="${look.paper}"/>`];
  for (const canvas of grid.querySelectorAll("canvas")) {
    const { x, y, w, h } = place(canvas);
    parts.push(`<image x="${x}" y="${y}" width="${w}" height="${h}" style="image-rendering:pixelated" href="${canvas.toDataURL()}"/>`);
  }
  // What sticks to the bottom of the scrolled part belongs below the pictures.
  const foot = grid.querySelector(".panel").offsetTop + grid.querySelector(".panel").offsetHeight;
  const says = (element, text, soft = false) => {
    const { x, y, h } = place(element);
    const down = element.closest(".foot") ? foot + 8 : y + h / 2;
    parts.push(`<text x="${x}" y="${down}" dominant-baseline="middle" font-size="11" fill="${soft ? look.soft : look.text}">${escaped(text)}</text>`);
  };
  for (const element of grid.querySelectorAll(".item")) says(element.querySelector(".label"), element.textContent);
  for (const element of grid.querySelectorAll(".head")) {
    const { x, y, w, h } = place(element);
    if (element.classList.contains("on-end")) {
      parts.push(`<text transform="translate(${x + w / 2} ${y + h - 4}) rotate(-90)" dominant-baseline="middle" font-size="11" fill="${look.text}">${escaped(element.textContent)}</text>`);
      continue;
    }
    wrapped(element.textContent, Math.floor(w / HEAD_LETTER)).forEach((line, i) =>
      parts.push(`<text x="${x}" y="${y + 10 + i * 13}" font-size="11" fill="${look.text}">${escaped(line)}</text>`));
  }
  for (const element of grid.querySelectorAll(".ticks span")) says(element, element.textContent, true);
  grid.scrollTo(left, top);
  return {
    width, height,
    text: `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" font-family="Arial, sans-serif">${parts.join("")}</svg>`,
  };
}

const svgUrl = (text) => `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;

// PNG or SVG of a chart: laid out by the page, or drawn by the library.
export const savePicture = (chart, ...rest) => (chart.querySelector(".heat") ? saveHeatmap : saveChart)(chart, ...rest);

async function saveHeatmap(chart, look, name, format) {
  const { text, width, height } = heatmapSvg(chart, look);
  if (format === "svg") return download(svgUrl(text), `${name}.svg`);
  const image = new Image();
  image.src = svgUrl(text);
  await image.decode();
  const scale = Math.min(2, 16000 / width, 16000 / height);
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width * scale, height * scale];
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  return download(canvas.toDataURL("image/png"), `${name}.png`);
}

async function saveChart(chart, look, name, format) {
  const { width, height } = chart.getBoundingClientRect();
  const url = await window.Plotly.toImage(chart, { format, width, height, scale: format === "png" ? 2 : 1 });
  download(url, `${name}.${format}`);
}
