// The beams, level by level: one column per depth, one box per prefix, a line from each prefix to its parent.
import { h, s, count, hue, percent } from "./dom.js";

/** Fill `root` with the beams of one answer; `tabs` (or null) lets the reader choose the model in comparisons. */
export function show(root, answer, tabs) {
  const levels = answer.levels ?? [];
  const last = levels.at(-1);
  root.replaceChildren(
    h("header", {},
      h("h2", {}, "How the model got there"),
      h("p", {}, last
        ? `${answer.exact ? `The best ${count(answer.beam)} IDs of all, found exactly` : `${count(answer.beam)} beams`}; ` +
          `the IDs that were written hold ${percent(answer.mass)} of all probability`
        : "no beams came back"),
      tabs),
    h("div", { class: "scroll" }, h("div", { class: "tree" }, s("svg", { "aria-hidden": "true" }), levels.map(column))));
  draw(root);
}

function column(level) {
  const best = Math.max(...level.prefixes.map((prefix) => prefix.probability), 1e-300);
  const hidden = level.followed - level.prefixes.length;
  const ended = level.prefixes.some(chooses) && ` · ends ${percent(level.ended)}`;
  return h("section", { class: `level ${hue(level.depth)}` },
    h("header", { title: `${count(level.codebook_size)} codes; ${count(level.live)} prefixes of this depth lead to a product` },
      h("b", {}, `Level ${level.depth}`),
      `${count(level.followed)} of ${count(level.live)} followed · ${percent(level.mass)}`, ended),
    h("ol", {}, level.prefixes.map((prefix) => h("li", {}, node(prefix, best)))),
    hidden > 0 && h("p", { class: "more" }, `and ${count(hidden)} less likely`));
}

/** Whether an ID may end at this prefix or go on: only where IDs have several lengths. */
const chooses = (prefix) => prefix.end != null && prefix.end < prefix.probability;

function node(prefix, best) {
  const named = prefix.label && prefix.items > 1; // one product is better told by its title
  const label = named ? prefix.label : prefix.items > 1 ? `e.g. ${prefix.example}` : prefix.example;
  const shown = prefix.ranks.slice(0, 4);
  return h("button", {
    type: "button", class: `node${prefix.ranks.length ? "" : " dead"}`, "data-sid": prefix.text,
    title: `${prefix.text}: ${count(prefix.items)} items in ${count(prefix.sids)} IDs` +
      (prefix.label ? `, ${percent(prefix.share)} ${prefix.label}` : "") + (prefix.example ? `; e.g. ${prefix.example}` : "") +
      (chooses(prefix) ? `; an ID of its own, which ends here with probability ${percent(prefix.end)}` : ""),
  },
  h("span", { class: "row" },
    h("span", { class: "code" }, prefix.codes.slice(0, -1).map((code) => `${code}-`).join(""), h("b", {}, prefix.codes.at(-1))),
    h("span", { class: "p" }, percent(prefix.probability))),
  h("span", { class: named ? "label" : "label eg" }, label),
  h("span", { class: "row" },
    h("span", { class: "items" }, `${count(prefix.items)} ${prefix.items === 1 ? "item" : "items"}` + (chooses(prefix) ? ` · ends ${percent(prefix.end)}` : "")),
    h("span", { class: "ranks" }, shown.map((rank) => h("i", {}, rank)), prefix.ranks.length > 4 && h("i", {}, `+${prefix.ranks.length - 4}`))),
  h("u", { style: { width: `${Math.max(2, (100 * prefix.probability) / best)}%` } }));
}

/** Draw the lines between the boxes; again whenever the layout changes. */
export function draw(root) {
  const tree = root.querySelector(".tree");
  if (!tree) return;
  const from = tree.getBoundingClientRect();
  const boxes = new Map([...tree.querySelectorAll(".node")].map((box) => [box.dataset.sid, box]));
  const lines = [];
  for (const [sid, box] of boxes) {
    const parent = boxes.get(sid.slice(0, Math.max(0, sid.lastIndexOf("-"))));
    if (!parent) continue;
    const a = parent.getBoundingClientRect(), b = box.getBoundingClientRect();
    const [x1, y1, x2, y2] = [a.right - from.left, a.top + a.height / 2 - from.top, b.left - from.left, b.top + b.height / 2 - from.top];
    const dead = box.classList.contains("dead");
    lines.push(s("path", {
      d: `M${x1} ${y1}C${x1 + 24} ${y1} ${x2 - 24} ${y2} ${x2} ${y2}`, "stroke-width": dead ? 1.2 : 2, "data-sid": sid, class: dead ? "dead" : null,
    }));
  }
  tree.querySelector("svg").replaceChildren(...lines);
}

/** True when one of two SIDs is a prefix of the other. */
export const related = (a, b) => a === b || a.startsWith(`${b}-`) || b.startsWith(`${a}-`);

/** Light up everything on the way to `sid` and, where `below`, under it, inside `scope`; null puts the lights out.
 * A card is one whole ID: where IDs have several lengths, longer ones begin with it but are not on its way. */
export function light(scope, sid, lists, below) {
  const near = (each) => (below ? related(each, sid) : each === sid || sid.startsWith(`${each}-`));
  for (const part of [scope, ...lists]) {
    part.classList.toggle("lit", sid != null);
    for (const element of part.querySelectorAll("[data-sid]")) {
      element.classList.toggle("on", sid != null && near(element.dataset.sid));
    }
  }
}
