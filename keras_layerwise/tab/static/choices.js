// What the user chose, as TensorBoard's address keeps it.

import { readChoices, writeChoices } from "./host.js";

const DEFAULTS = {
  runs: "", stat: "", scale: "log", relative: "all", averages: "shown", layers: "[]", open: "[]", zoom: "",
  filter: "", runfilter: "", axis: "step", smooth: "0", metric: "", x: "drift", pair: "[]", sort: "", where: "{}", brush: "[]",
};

export const choices = { ...DEFAULTS };

export function takeAddress() {
  Object.assign(choices, DEFAULTS, readChoices());
}

export function keep(change = {}) {
  Object.assign(choices, change);
  writeChoices(Object.fromEntries(Object.entries(choices).filter(([key, value]) => key in DEFAULTS && value !== DEFAULTS[key])));
}

// Lists and objects are kept as JSON; what is none, because an address was edited, is empty.
export function listOf(key) {
  try {
    const parsed = JSON.parse(choices[key]);
    return Array.isArray(parsed) ? parsed.filter((item) => typeof item === "string") : [];
  } catch {
    return [];
  }
}

export function objectOf(key) {
  try {
    const parsed = JSON.parse(choices[key]);
    return parsed && typeof parsed === "object" && !Array.isArray(parsed) ? parsed : {};
  } catch {
    return {};
  }
}

export function toggled(key, name) {
  const names = new Set(listOf(key));
  if (!names.delete(name)) names.add(name);
  return { [key]: JSON.stringify([...names]) };
}

// Two steps, or null for all.
export function zoomSpan() {
  const [first, last] = choices.zoom.split("-").map(Number);
  return choices.zoom && Number.isFinite(first) && last >= first ? [first, last] : null;
}
