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
    window.parent.history.replaceState(window.parent.history.state, "", hash);
  }
}

export function onAddress(callback) {
  window.parent.addEventListener("hashchange", () => {
    if (parts()[0] === "layerwise") callback();
  });
}

// The filter of runs that TensorBoard's own dashboards keep in the address.
export function tensorBoardFilter() {
  return new URLSearchParams(window.parent.location.search).get("runFilter") ?? "";
}
