// The rows of all runs as the tree of the model: stem, blocks, neck, head, and layers in them.

import { commonPrefix, visible } from "./text.js";

export const CLOSED_ABOVE = 40;
const SPLIT_ABOVE = 12;
const STATE = " (non-trainable)";
const PARTS = { stem: 0, block: 1, neck: 2, head: 3 };

export const layerOf = (name) => (name.endsWith(STATE) ? name.slice(0, -STATE.length) : name);

// Lists of names merged in the order in which each has them.
export function mergeOrders(lists) {
  const names = [];
  const known = new Set();
  for (const list of lists) {
    if (list.every((name) => known.has(name))) continue;
    let at = 0;
    for (const name of list) {
      if (known.has(name)) {
        at = names.indexOf(name) + 1;
        continue;
      }
      names.splice(at++, 0, name);
      known.add(name);
    }
  }
  return names;
}

function leavesOf(runs) {
  const leaves = new Map();
  const lists = [...new Set(runs.map((run) => run.rows))];
  const rows = new Map(lists.flatMap((list) => list.map((row) => [row.name, row])));
  for (const name of mergeOrders(lists.map((list) => list.map((row) => row.name)))) {
    const row = rows.get(name);
    const key = layerOf(name);
    const leaf = leaves.get(key) ?? { key, weights: null, averages: null, part: "", parameters: 0, children: [] };
    leaf[row.trainable ? "weights" : "averages"] = name;
    leaf.part ||= row.part ?? "";
    leaf.parameters += row.parameters;
    leaves.set(key, leaf);
  }
  return [...leaves.values()];
}

function partLabel(part) {
  const [kind, index, ...name] = part.split("/");
  return kind === "block" ? `block ${index} · ${name.join("/")}` : part || "other";
}

// A part that is one layer of the same name says it once.
const onlyMember = (part, layer) => (part === layer || part.endsWith(` ${layer}`) ? part : `${part} · ${layer}`);

function order(part) {
  const [kind, index] = part.split("/");
  return kind in PARTS ? PARTS[kind] * 1e6 + (Number(index) || 0) : 9e6;
}

function group(key, label, leaves) {
  const prefix = commonPrefix(leaves.map((leaf) => leaf.key));
  const children = leaves.map((leaf) => ({ ...leaf, label: visible(leaf.key.slice(prefix.length)) }));
  return { key, label: visible(label), prefix, children, parameters: leaves.reduce((sum, leaf) => sum + leaf.parameters, 0) };
}

function grouped(leaves, keyOf) {
  const groups = new Map();
  for (const leaf of leaves) {
    const key = keyOf(leaf);
    groups.set(key, [...(groups.get(key) ?? []), leaf]);
  }
  return groups;
}

// Without an outline: the first name after what all share, the second too where the first has
// most of the model in it, or a name's stem with its number.
function byPath(leaves, prefix) {
  const own = (leaf) => leaf.key.slice(prefix.length);
  const first = (leaf) => own(leaf).split("/")[0];
  const sizes = new Map([...grouped(leaves, first)].map(([key, members]) => [key, members.length]));
  const deeper = (leaf) => own(leaf).split("/").slice(0, sizes.get(first(leaf)) > SPLIT_ABOVE ? 2 : 1).join("/");
  const keyOf = isNested(leaves, prefix) ? deeper : (leaf) => own(leaf).match(/^\D*\d+(?=[_/.]|$)/)?.[0] ?? own(leaf);
  // The name that most layers begin with is said once, beside the tree.
  const large = isNested(leaves, prefix) ? [...sizes].filter(([, size]) => size > SPLIT_ABOVE).map(([key]) => `${key}/`) : [];
  const said = large.length === 1 ? large[0] : "";
  const short = (text) => (said && text.startsWith(said) ? text.slice(said.length) : text);
  const nodes = [...grouped(leaves, keyOf)].map(([key, members]) =>
    members.length === 1
      ? { ...members[0], label: visible(short(own(members[0]))) }
      : group(`path:${prefix}${key}`, short(key), members)
  );
  return { nodes, said: prefix + said };
}

const isNested = (leaves, prefix) => leaves.some((leaf) => leaf.key.includes("/", prefix.length));

// The same layers of the same runs are the same tree.
export function treeOf(runs) {
  const leaves = leavesOf(runs);
  const named = leaves.some((leaf) => leaf.part);
  const large = leaves.length > CLOSED_ABOVE;
  let nodes, prefix = "";
  if (named) {
    const groups = [...grouped(leaves, (leaf) => leaf.part)].sort(([a], [b]) => order(a) - order(b));
    nodes = groups.map(([part, members]) =>
      members.length === 1
        ? { ...members[0], label: onlyMember(partLabel(part), visible(members[0].key)) }
        : group(`part:${part}`, partLabel(part), members)
    );
  } else {
    prefix = commonPrefix(leaves.map((leaf) => leaf.key));
    if (large || isNested(leaves, prefix)) ({ nodes, said: prefix } = byPath(leaves, prefix));
    else nodes = leaves.map((leaf) => ({ ...leaf, label: visible(leaf.key.slice(prefix.length)) }));
  }
  return { nodes, leaves, prefix: visible(prefix), large };
}

// Each node with the leaves below it: what its values are made of.
export const leavesBelow = (node) => (node.children.length ? node.children : [node]);

// Rows to show: toggled groups are the other way round than their size says.
export function shownRows(tree, toggled, matches) {
  const rows = [];
  for (const node of tree.nodes) {
    const members = leavesBelow(node).filter((leaf) => matches(leaf.key));
    if (!members.length) continue;
    if (!node.children.length) {
      rows.push({ ...node, level: 1, members, size: null });
      continue;
    }
    const open = tree.large === toggled.has(node.key);
    rows.push({ ...node, level: 1, members, open, size: members.length });
    if (open) rows.push(...members.map((leaf) => ({ ...leaf, level: 2, members: [leaf], size: null })));
  }
  return rows;
}
