// What is wrong, in groups by cause, each with what can be done about it.

import { byId, count, el, refill, stepText } from "./dom.js";
import { layerOf } from "./tree.js";
import { visible } from "./text.js";

const CAUSES = {
  averages: {
    title: "Moving averages moved though their layer is frozen",
    remedy: "The layer still runs in training mode. Freeze all of its weights by rule or set layer.trainable = False and compile; where you call it yourself, pass training=False.",
  },
  frozen_moved: {
    title: "Weights moved though frozen",
    remedy: "Something outside the optimizer writes them, or trainable was set without compile. Look for assign() and for set_weights() in callbacks, and compile after setting trainable.",
  },
  trainable_still: {
    title: "Trainable layers have not moved",
    remedy: "No gradient arrives, or the rate is 0: see whether the layer is used in the loss, whether an activation is dead, and its rate in 'Did the rates hold?'.",
  },
  nonfinite: {
    title: "Weights are NaN or infinite",
    remedy: "Lower the learning rate or clip gradients (global_clipnorm); under float16 check the loss scale. The first layer and step in the list is where it began.",
  },
};

const causeOf = (mark) => (mark.kind === "frozen_moved" && mark.subject !== layerOf(mark.subject) ? "averages" : mark.kind);
const MOST = 200; // of one cause; the table of values marks every one

// [{key, run, mark, number}]: one for each kind, layer and run, with its first mark.
export function alarmsOf(run, marks) {
  const found = new Map();
  for (const mark of marks) {
    if (!mark.alarm) continue;
    const key = JSON.stringify([run.name, mark.kind, mark.subject]);
    const alarm = found.get(key) ?? { key, run, mark, number: 0 };
    alarm.number += 1;
    found.set(key, alarm);
  }
  return [...found.values()];
}

export function showAlarms(panels, onLayer) {
  const alarms = panels.flatMap(({ run, marks }) => alarmsOf(run, marks));
  const groups = new Map();
  for (const alarm of alarms) {
    const cause = causeOf(alarm.mark);
    groups.set(cause, [...(groups.get(cause) ?? []), alarm]);
  }
  byId("alarms-card").hidden = !alarms.length;
  byId("alarms-title").textContent = `What is wrong? ${count(alarms.length, "alarm")}`;
  const opened = new Set([...byId("alarms").querySelectorAll("details[open]")].map((d) => d.dataset.key));
  const sections = [...groups].map(([cause, members]) => {
    const { title = cause, remedy = "" } = CAUSES[cause] ?? {};
    const layers = new Set(members.map(({ mark }) => mark.subject)).size;
    const runs = new Set(members.map(({ run }) => run.name)).size;
    const where = `${count(layers, "layer")} in ${count(runs, "run")}, from step ${stepText(members.reduce((first, { mark }) => Math.min(first, mark.step), Infinity))}`;
    const body = el("ul", {});
    const fill = () => {
      if (!details.open || body.children.length) return;
      body.append(...members.slice(0, MOST).map((alarm) => item(alarm, onLayer)));
      if (members.length > MOST) body.append(el("li", {}, `and ${members.length - MOST} more`));
    };
    const details = el(
      "details",
      { "data-key": cause, open: opened.has(cause) || members.length <= 4 },
      el(
        "summary",
        { "data-key": `cause ${cause}` },
        el("span", { className: "glyph alarm", ariaHidden: "true" }, members[0].mark.glyph),
        el("strong", {}, ` ${title}: `), where
      ),
      el("p", { className: "hint" }, remedy),
      body
    );
    details.addEventListener("toggle", fill);
    fill();
    return details;
  });
  refill(byId("alarms"), sections);
}

function item({ key, run, mark, number }, onLayer) {
  const text = visible(number > 1 ? `${mark.text} (${number} times)` : mark.text);
  const button = el(
    "button",
    { type: "button", title: text, "data-key": key },
    el("strong", {}, visible(mark.subject)),
    el("span", { className: "hint" }, `${visible(run.name)}, ${number > 1 ? "from " : ""}step ${stepText(mark.step)}`)
  );
  button.addEventListener("click", () => onLayer(mark.row));
  return el("li", {}, button);
}
