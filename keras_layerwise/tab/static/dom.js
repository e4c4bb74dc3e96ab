// Elements from data: strings become text, never markup.

// New children in place of the old ones; where one of these had the focus, its successor has it.
export function refill(parent, children, otherwise = null) {
  const focused = parent.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  parent.replaceChildren(...children);
  if (focused === undefined) return;
  const successor = [...parent.querySelectorAll("[data-key]")].find((child) => child.dataset.key === focused);
  (successor ?? otherwise)?.focus({ preventScroll: true });
}

export const byId = (id) => document.getElementById(id);

export function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

// For those who hear the page.
export const unseen = (text) => el("span", { className: "unseen" }, text);

export function download(url, name) {
  const link = el("a", { href: url, download: name, hidden: true });
  document.body.append(link);
  link.click();
  link.remove();
}

// The shortest decimal that is this float32, as NumPy prints it.
export function float32(value) {
  if (!Number.isFinite(value)) return Number.isNaN(value) ? "not defined" : String(value);
  for (let digits = 6; digits <= 9; digits++) {
    const text = value.toPrecision(digits);
    if (Math.fround(Number(text)) === value) return String(Number(text));
  }
  return String(value);
}

export function brief(value) {
  if (!Number.isFinite(value)) return float32(value);
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e5)) {
    return value.toExponential(1).replace(/\.0e/, "e").replace("e+", "e");
  }
  return String(Number(value.toPrecision(3)));
}

// Of a number that was measured; what else a record holds stays as it is.
export const sixDigits = (value) => (typeof value === "number" ? String(Number(value.toPrecision(6))) : String(value));

// Of one in a table that has its whole value on hover.
export function fourDigits(value) {
  if (Number.isInteger(value) || !Number.isFinite(value)) return String(value);
  return Math.abs(value) < 1e-3 ? value.toExponential(3).replace(/\.?0*e/, "e") : String(Number(value.toPrecision(4)));
}

export const count = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;

export const stepText = (step) => step.toLocaleString("en");
