// TensorBoard imports this module into an empty frame and calls render().

const CHARTS = "vendor/plotly.js-cartesian-dist-min-4.1.1/plotly-cartesian.min.js";

const here = (name) => new URL(name, import.meta.url).href;

// Every module of the page: asked for at once, not as each is found in another.
const MODULES = [
  "alarms", "app", "axis", "cards", "causes", "charts", "choices", "columns", "cursor", "data", "difference", "dom", "drift",
  "files", "forget", "heatmap", "held", "host", "lines", "marks", "paint", "pictures", "rates", "records", "scale", "side",
  "sweep", "text", "tree", "values",
];

function loaded(element) {
  return new Promise((resolve, reject) => {
    element.addEventListener("load", resolve);
    element.addEventListener("error", () => reject(new Error(`${element.tagName} did not load`)));
    document.head.append(element);
  });
}

export async function render() {
  const style = Object.assign(document.createElement("link"), {
    rel: "stylesheet",
    href: here("style.css"),
  });
  const link = (properties) => document.head.append(Object.assign(document.createElement("link"), properties));
  for (const name of MODULES) link({ rel: "modulepreload", href: here(`${name}.js`) });
  // Large, and busy for a third of a second: it arrives meanwhile and runs after the first picture.
  link({ rel: "preload", as: "script", href: here(CHARTS), fetchPriority: "low" });
  const charts = () => loaded(Object.assign(document.createElement("script"), { src: here(CHARTS) }));
  const listing = fetch(here("runs"));
  listing.catch(() => {}); // whoever reads it says so
  const [page, app] = await Promise.all([
    fetch(here("page.html")).then((response) => response.text()),
    import("./app.js"),
    loaded(style),
  ]);
  const parsed = new DOMParser().parseFromString(page, "text/html");
  document.documentElement.lang = parsed.documentElement.lang;
  document.title = parsed.title;
  document.body.replaceChildren(...parsed.body.children);
  await app.start(charts, listing);
}
