// What is marked on the charts: alarms by kind and planned changes, each with a shape of its own.

export const MARKS = {
  frozen_moved: { alarm: true, glyph: "✖", symbol: "x", label: "frozen, but moved" },
  trainable_still: { alarm: true, glyph: "■", symbol: "square", label: "trainable, but still" },
  nonfinite: { alarm: true, glyph: "◆", symbol: "diamond", label: "not finite" },
  unfrozen: { glyph: "▲", symbol: "triangle-up", label: "unfrozen at this step" },
  frozen: { glyph: "▼", symbol: "triangle-down", label: "frozen at this step" },
  multiplier: { glyph: "●", symbol: "circle", label: "multiplier changed" },
  weight_decay: { glyph: "●", symbol: "circle", label: "weight decay changed" },
};

const UNKNOWN = { glyph: "●", symbol: "circle" };

export const STATES = {
  frozen: { glyph: "❄", label: "frozen layer" },
  differs: { glyph: "(❄)", label: "frozen in some of the runs" },
  still: { glyph: "◌", label: "non-trainable weights" },
};

// The marks of a run on the rows of its chart; a weight is marked at its layer.
export function marksOf(run) {
  const rows = new Set(run.rows.map((row) => row.name));
  const rowOf = (name) => {
    for (let end = name.length; end > 0; end = name.lastIndexOf("/", end - 1)) {
      const candidate = name.slice(0, end);
      if (rows.has(candidate)) return candidate;
    }
    return name;
  };
  const mark = (kind, message, text) => ({
    ...(MARKS[kind] ?? UNKNOWN),
    kind,
    row: rowOf(String(message.row)),
    subject: String(message.row),
    step: Number(message.step),
    text,
  });
  return [
    ...run.alarms.map((message) => mark(String(message.kind), message, String(message.message))),
    ...run.changes.map((message) => mark(String(message.what), message, changeText(message))),
  ];
}

function changeText({ what, old, new: now }) {
  if (what === "frozen" || what === "unfrozen") return what;
  return `${String(what).replace("_", " ")} ${JSON.stringify(old)} → ${JSON.stringify(now)}`;
}

// A row's state at the end, its planned changes applied.
export function stateOf(row, marks) {
  if (!row.trainable) return "still";
  let frozen = row.frozen;
  for (const mark of marks) {
    if (mark.subject !== row.name) continue;
    if (mark.kind === "frozen") frozen = true;
    if (mark.kind === "unfrozen") frozen = false;
  }
  return frozen ? "frozen" : null;
}
