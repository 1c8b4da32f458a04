// The beams, level by level: one column per depth, one box per prefix, a line from each prefix to
// its parent, and what a filter cut.
import { h, s, count, hue, percent, several } from "./dom.js";

/** Fill `root` with the beams of one answer; `tabs` (or null) choose the side of a comparison. */
export function show(root, answer, tabs) {
  const levels = answer.levels ?? [];
  root.dataset.model = answer.model;
  root.replaceChildren(
    h(
      "header",
      {},
      h("h2", {}, "How the model got there"),
      h("p", {}, summary(answer, levels)),
      tabs,
    ),
    h(
      "div",
      { class: "scroll", tabindex: 0, role: "group", "aria-label": "Beams, level by level" },
      h("div", { class: "tree" }, s("svg", { "aria-hidden": "true" }), levels.map(column)),
    ),
  );
  draw(root);
}

function summary(answer, levels) {
  if (!levels.length) return "No model took part in this answer.";
  const how = answer.exact
    ? `The best ${count(answer.beam)} IDs of all, found exactly`
    : several(answer.beam, "beam");
  const cut = levels.reduce((sum, level) => sum + level.cut, 0);
  const filter = cut
    ? `; the filter cut ${several(cut, "prefix", "prefixes")}`
    : "";
  return `${how}; the IDs that were written hold ${percent(answer.mass)} of all probability${filter}`;
}

function column(level) {
  const best = Math.max(...level.prefixes.map((prefix) => prefix.probability), 1e-300);
  const hidden = level.followed - level.prefixes.length;
  const ended = level.prefixes.some(chooses) && ` · ends ${percent(level.ended)}`;
  const words =
    `${count(level.codebook_size)} codes; ${count(level.live)} prefixes of this depth ` +
    "lead to a product";
  return h(
    "section",
    { class: `level ${hue(level.depth)}` },
    h(
      "header",
      { title: words },
      h("b", {}, `Level ${level.depth}`),
      `${count(level.followed)} of ${count(level.live - level.cut)} followed · ${percent(level.mass)}`,
      ended,
    ),
    level.cut > 0 && cuts(level),
    h(
      "ol",
      {},
      level.prefixes.map((prefix) => h("li", {}, node(prefix, best))),
    ),
    hidden > 0 && h("p", { class: "more" }, `and ${count(hidden)} less likely`),
  );
}

/** What the filter took away at a level: how much, and the most probable prefixes by name. */
function cuts(level) {
  const lost = level.cut_mass > 0 ? ` with ${percent(level.cut_mass)} of all probability` : "";
  return h(
    "div",
    { class: "cuts" },
    h("p", {}, `Cut by the filter: ${several(level.cut, "prefix", "prefixes")}${lost}`),
    h(
      "ol",
      {},
      level.cut_prefixes.map((prefix) => h("li", {}, cutNode(prefix))),
    ),
  );
}

/** A prefix that the filter took away, in one line. */
const cutNode = (prefix) =>
  h(
    "button",
    {
      type: "button",
      class: "node cut",
      "data-sid": prefix.text,
      title: meaning(prefix, true),
    },
    h(
      "span",
      { class: "row" },
      h("s", { class: "code" }, prefix.text),
      h("span", { class: "label" }, prefix.label || prefix.example),
      h("span", { class: "p" }, percent(prefix.probability)),
    ),
  );

/** Whether an ID may end at this prefix or go on: only where IDs have several lengths. */
const chooses = (prefix) => prefix.end != null && prefix.end < prefix.probability;

function node(prefix, best) {
  const named = prefix.label && prefix.items > 1; // one product is better told by its title
  const label = named ? prefix.label : prefix.items > 1 ? `e.g. ${prefix.example}` : prefix.example;
  const room = prefix.allowed == null ? 4 : 2; // under a filter the items take more of the line
  const ranks = prefix.ranks.slice(0, room).map((rank) => h("i", {}, rank));
  const more = prefix.ranks.length > room && h("i", {}, `+${prefix.ranks.length - room}`);
  return h(
    "button",
    {
      type: "button",
      class: `node${prefix.ranks.length ? "" : " dead"}`,
      "data-sid": prefix.text,
      title: meaning(prefix, false),
    },
    h(
      "span",
      { class: "row" },
      h(
        "span",
        { class: "code" },
        prefix.codes
          .slice(0, -1)
          .map((code) => `${code}-`)
          .join(""),
        h("b", {}, prefix.codes.at(-1)),
      ),
      h("span", { class: "p" }, percent(prefix.probability)),
    ),
    h("span", { class: named ? "label" : "label eg" }, label),
    h(
      "span",
      { class: "row" },
      h("span", { class: "items" }, items(prefix)),
      h("span", { class: "ranks" }, ranks, more),
    ),
    h("u", { style: { width: `${Math.max(2, (100 * prefix.probability) / best)}%` } }),
  );
}

function items(prefix) {
  const part = prefix.allowed != null && prefix.allowed < prefix.items;
  const whole = part
    ? `${count(prefix.allowed)} of ${several(prefix.items, "item")}`
    : several(prefix.items, "item");
  return whole + (chooses(prefix) ? ` · ends ${percent(prefix.end)}` : "");
}

function meaning(prefix, cut) {
  const parts = [
    `${prefix.text}: ${several(prefix.items, "item")} in ${several(prefix.sids, "ID")}`,
  ];
  if (prefix.label) parts.push(`${percent(prefix.share)} ${prefix.label}`);
  if (prefix.example) parts.push(`e.g. ${prefix.example}`);
  if (chooses(prefix)) {
    parts.push(`an ID of its own, which ends here with probability ${percent(prefix.end)}`);
  }
  if (cut) parts.push("the filter allows none of them");
  else if (prefix.allowed != null) parts.push(`the filter allows ${count(prefix.allowed)}`);
  return parts.join("; ");
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
    if (!parent || parent.classList.contains("cut")) continue;
    const a = parent.getBoundingClientRect(),
      b = box.getBoundingClientRect();
    const x1 = a.right - from.left,
      y1 = a.top + a.height / 2 - from.top;
    const x2 = b.left - from.left,
      y2 = b.top + b.height / 2 - from.top;
    const kind = ["cut", "dead"].find((name) => box.classList.contains(name)) ?? null;
    lines.push(
      s("path", {
        d: `M${x1} ${y1}C${x1 + 24} ${y1} ${x2 - 24} ${y2} ${x2} ${y2}`,
        "stroke-width": kind ? 1.2 : 2,
        "data-sid": sid,
        class: kind,
      }),
    );
  }
  tree.querySelector("svg").replaceChildren(...lines);
}

/** True when one of two SIDs is a prefix of the other. */
export const related = (a, b) => a === b || a.startsWith(`${b}-`) || b.startsWith(`${a}-`);

/**
 * Light up everything on the way to `sid` and, where `below`, under it, inside `scope` and `lists`;
 * null puts the lights out. A card is one whole ID: where IDs have several lengths, longer ones
 * begin with it but are not on its way.
 */
export function light(scope, sid, lists, below) {
  const near = (one) => (below ? related(one, sid) : one === sid || sid.startsWith(`${one}-`));
  for (const part of [scope, ...lists]) {
    part.classList.toggle("lit", sid != null);
    for (const element of part.querySelectorAll("[data-sid]")) {
      element.classList.toggle("on", sid != null && near(element.dataset.sid));
    }
  }
}

/** Light paths up in `answer` (lists and the beams `root`) by pointer, focus and click. */
export function follow(answer, root) {
  const at = (event) => {
    const lists = [...answer.querySelectorAll(".list")].filter(
      (one) => one.dataset.model === root.dataset.model,
    );
    const element = event?.target.closest(".card, .node");
    const isNode = element?.matches(".node");
    const own = element && (isNode || lists.includes(element.closest(".list")));
    light(root, own ? element.dataset.sid : null, lists, isNode);
  };
  for (const type of ["mouseover", "focusin", "click"]) answer.addEventListener(type, at);
  answer.addEventListener("mouseleave", () => at(null));
  new ResizeObserver(() => draw(root)).observe(root);
}
