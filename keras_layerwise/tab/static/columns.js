// What the table of runs has as columns: what a user set and what came of it, each once.

import { causesFirst, isCause, shown } from "./causes.js";
import { lowIsBetter } from "./forget.js";
import { matcher } from "./text.js";

const PLAN = /^training\/callbacks\/[^/]+\/[^/]+\//; // each step of a callback's plan
const MOST = 12; // values that differ; the others are in the comparison of two runs
const CLOSE = 1e-6; // of two numbers, one of which went through float32

const parsed = (text) => {
  const number = Number(text);
  return text !== undefined && Number.isFinite(number) && text.trim() !== "" ? number : shown(text, undefined);
};

const alike = (a, b) =>
  a === b || (typeof a === "number" && typeof b === "number" && Math.abs(a - b) <= CLOSE * Math.max(Math.abs(a), Math.abs(b)));

// Values that are the same in every run are one column, under the name that the user gave: a rate
// that was set is also the optimizer's. The causes come first, so theirs is the name that stays.
function once(columns, records) {
  const kept = [];
  for (const column of columns) {
    column.values = records.map(column.value);
    const same = kept.find((other) => other.values.every((value, i) => alike(value, column.values[i])));
    if (same) same.also.push(column.name);
    else kept.push(column);
  }
  return kept;
}

// [{key, name, title, value(record), also: names of the same values, result}]; records: by name.
// What the user named, results, then what else was set.
export function columnsOf(records) {
  const all = Object.values(records);
  const results = new Set(), keys = new Set();
  for (const record of all) {
    for (const kind of ["final", "best"]) {
      for (const name of Object.keys(record.results[kind] ?? {})) results.add(`${kind} ${name}`);
    }
    Object.keys(record.values).forEach((key) => keys.add(key));
  }
  const many = results.size > 4;
  const ofResult = [...results].filter((name) => !many || name.startsWith("final ")).map((name) => {
    const [kind, ...rest] = name.split(" ");
    return { key: `result:${name}`, name, result: true, also: [], title: many ? rest.join(" ") : name, value: (record) => record.results[kind]?.[rest.join(" ")] };
  });
  const causes = causesFirst([...keys].filter((key) => isCause(key) && !PLAN.test(key)));
  const ofCause = once(causes.map((key) => ({ key: `value:${key}`, name: key, also: [], title: key.replace(/^(user|training)\//, ""), value: (record) => parsed(record.values[key]) })), all).slice(0, MOST);
  const named = ofCause.filter(({ key }) => key.startsWith("value:user/"));
  return [...named, ...ofResult, ...ofCause.filter((column) => !named.includes(column))];
}

// The best of the values of one result, undefined where there is nothing to choose from.
export function bestOf(values, name) {
  const numbers = values.filter(Number.isFinite);
  if (new Set(numbers).size < 2) return undefined;
  return lowIsBetter(name) ? Math.min(...numbers) : Math.max(...numbers);
}

// ">0.5", "1e-4..1e-2" or, for what is no number, a regular expression.
export function admits(pattern, value) {
  if (!pattern) return true;
  const range = pattern.match(/^\s*(\S*?)\s*\.\.\s*(\S*)\s*$/), bound = pattern.match(/^\s*([<>]=?)\s*(\S+)\s*$/);
  if (typeof value === "number") {
    if (range) return (range[1] === "" || value >= Number(range[1])) && (range[2] === "" || value <= Number(range[2]));
    if (bound) {
      const limit = Number(bound[2]);
      return { "<": value < limit, "<=": value <= limit, ">": value > limit, ">=": value >= limit }[bound[1]];
    }
  }
  return matcher(pattern)(value === undefined ? "" : String(value));
}

// Rows {run, record} by a column's key, with a minus for the other way round.
export function sorted(rows, columns, by) {
  const [key, direction] = [by.replace(/^-/, ""), by.startsWith("-") ? -1 : 1];
  const column = columns.find((one) => one.key === key);
  if (!column) return rows;
  const absent = (value) => value === undefined || Number.isNaN(value);
  return [...rows].sort((a, b) => {
    const [x, y] = [column.value(a.record), column.value(b.record)];
    if (absent(x) || absent(y)) return absent(x) - absent(y); // last, whichever way
    return direction * (typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y)));
  });
}
