// TensorBoard imports this module into an empty frame and calls render().

const CHARTS = "vendor/plotly.js-cartesian-dist-min-4.1.1/plotly-cartesian.min.js";

const here = (name) => new URL(name, import.meta.url).href;

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
  const charts = Object.assign(document.createElement("script"), { src: here(CHARTS) });
  const ready = loaded(charts); // large; what is drawn is asked for meanwhile
  const [page, app] = await Promise.all([
    fetch(here("page.html")).then((response) => response.text()),
    import("./app.js"),
    loaded(style),
  ]);
  const parsed = new DOMParser().parseFromString(page, "text/html");
  document.documentElement.lang = parsed.documentElement.lang;
  document.title = parsed.title;
  document.body.replaceChildren(...parsed.body.children);
  await app.start(ready);
}
