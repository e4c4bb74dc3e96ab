// What TensorBoard around the frame tells the page, and the address that both share.

const PREFIX = "p.layerwise.";

// TensorBoard's own host of plugin frames answers on the port it is sent.
export function listen(handlers) {
  const channel = new MessageChannel();
  channel.port1.onmessage = ({ data }) => {
    const message = JSON.parse(data);
    if (message.isReply) return;
    handlers[message.type]?.(message.payload);
    channel.port1.postMessage(
      JSON.stringify({ type: message.type, id: message.id, payload: null, error: null, isReply: true })
    );
  };
  window.parent.postMessage("experimental.bootstrap", window.location.origin, [channel.port2]);
}

export function onTheme(callback) {
  const body = window.parent.document.body;
  const report = () => callback(body.classList.contains("dark-mode"));
  new MutationObserver(report).observe(body, { attributes: true, attributeFilter: ["class"] });
  report();
}

const parts = () => window.parent.location.hash.replace(/^#/, "").split("&");

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

export function readChoices() {
  const own = parts().filter((part) => part.startsWith(PREFIX));
  return Object.fromEntries(
    own.map((part) => {
      const [key, value = ""] = part.slice(PREFIX.length).split("=", 2);
      return [key, decoded(value)];
    })
  );
}

// Kept in the outer address, so that it can be shared and survives a reload.
export function writeChoices(choices) {
  const foreign = parts().filter((part) => !part.startsWith(PREFIX));
  const own = Object.entries(choices).map(
    ([key, value]) => `${PREFIX}${key}=${encodeURIComponent(value)}`
  );
  const hash = "#" + [...foreign, ...own].join("&");
  if (hash !== window.parent.location.hash) {
    const { pathname, search } = window.parent.location; // a page's base may lie elsewhere
    window.parent.history.replaceState(window.parent.history.state, "", pathname + search + hash);
  }
}

export function onAddress(callback) {
  window.parent.addEventListener("hashchange", () => {
    if (parts()[0] === "layerwise") callback();
  });
}

let filter = "";

// The filter of runs that TensorBoard's own dashboards keep in the address, where it has changed;
// null where it is what it was.
export function changedFilter() {
  const now = new URLSearchParams(window.parent.location.search).get("runFilter") ?? "";
  if (now === filter) return null;
  filter = now;
  return now;
}

// The colours in which the Time Series dashboard draws its runs, in the order of their start.
const COLOURS = {
  light: ["#425066", "#12b5cb", "#e52592", "#f9ab00", "#9334e6", "#7cb342", "#e8710a"],
  dark: ["#8e98a3", "#12b5cb", "#e52592", "#f9ab00", "#9334e6", "#7cb342", "#e8710a"],
};
const MEMBERS = ["", "/train", "/validation", "/drift", "/rates", "/hparams"];

// TensorBoard's own runs, in the order of their start.
export async function fetchListed() {
  const answer = await fetch(new URL("../../runs", import.meta.url)).catch(() => null);
  return answer?.ok ? answer.json() : [];
}

/**
 * Numbers of TensorBoard's colours by run. Null where two runs would have the same one: there are
 * seven, and the sub-directories of a run take one each.
 */
export function colourNumbers(names, listed) {
  if (names.length > COLOURS.light.length) return null;
  const numbers = names.map((name) => {
    const places = MEMBERS.map((member) => listed.indexOf(name === "." && member ? member.slice(1) : name + member));
    return places.find((place) => place >= 0) % COLOURS.light.length;
  });
  return new Set(numbers).size === names.length && numbers.every((number) => number >= 0)
    ? new Map(names.map((name, i) => [name, numbers[i]]))
    : null;
}

export const runColour = (number, dark) => COLOURS[dark ? "dark" : "light"][number];
