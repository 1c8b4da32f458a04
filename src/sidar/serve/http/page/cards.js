// Product cards.
import { h, s, hue, money, ms, percent, several } from "./dom.js";
import { actions, state } from "./state.js";
import { bar, legend, nameOf } from "./origins.js";

const REMOTE = /^https?:\/\//i;

/**
 * A list of results with its head line. `title` may be null; `moves(hit)` → an element or null says
 * where the item stands in the other list; `extra`: another element of the head line.
 */
export function list(answer, sizes, title = null, moves = () => null, extra = null) {
  const fused = answer.fuse !== "none"; // then the bar is the item's own probability, not its ID's
  const chance = (hit) => (fused ? Math.exp(hit.score) : hit.probability);
  const best = Math.max(...answer.hits.map(chance), 1e-300);
  return h(
    "section",
    { class: "list", "data-model": answer.model, "aria-label": title ?? "Results" },
    h(
      "header",
      {},
      title && h("h2", {}, title),
      h("span", {}, several(answer.hits.length, "item")),
      answer.allowed != null &&
        h("span", {}, `of ${answer.allowed.toLocaleString("en-US")} allowed`),
      extra,
      spent(answer.timing_ms),
    ),
    answer.notes.map((note) => h("p", { class: "note" }, note)),
    legend(answer),
    h(
      "ol",
      {},
      answer.hits.map((hit) => card(hit, chance(hit), best, sizes, moves(hit))),
    ),
  );
}

function card(hit, probability, best, sizes, move) {
  const found = hit.channels.map(nameOf).join(" · ");
  return h(
    "li",
    { class: "card", tabindex: 0, "data-rank": hit.rank, "data-sid": hit.sid_text },
    h("span", { class: "rank" }, hit.rank),
    picture(hit, sizes),
    h(
      "div",
      { class: "body" },
      h("h3", { title: hit.title }, hit.title || hit.item_id),
      about(hit),
      h(
        "div",
        { class: "why" },
        sid(hit),
        h(
          "div",
          { class: "score", title: reason(hit) },
          h("i", {}, h("u", { style: { width: `${Math.max(1.5, (100 * probability) / best)}%` } })),
          percent(probability),
        ),
      ),
      bar(hit) ??
        (hit.channels.length > 1 && h("div", { class: "found", title: sources(hit) }, found)),
    ),
    move,
    touch(hit),
  );
}

function touch(hit) {
  const chosen = state.history.has(hit.item_id);
  const words = chosen ? "Take out of the history" : "Put into the history";
  return h(
    "button",
    {
      class: "add",
      type: "button",
      "aria-pressed": String(chosen),
      title: `${words}, and search again`,
      "aria-label": `${words}: ${hit.title || hit.item_id}`,
      onclick: (event) => {
        event.stopPropagation();
        if (!state.history.delete(hit.item_id))
          state.history.set(hit.item_id, hit.title || hit.item_id);
        actions.search();
      },
    },
    chosen ? "✓" : "+",
  );
}

/** Price, brand and category of an item. */
export const about = (item) =>
  h(
    "div",
    { class: "meta" },
    item.price != null && h("span", { class: "price" }, money(item.price)),
    item.brand && h("span", {}, item.brand),
    item.category.length > 0 &&
      h(
        "span",
        { class: "path", title: item.category.join(" › ") },
        item.category.slice(-3).join(" › "),
      ),
  );

function sid(hit) {
  const early = hit.level_logp.length > hit.sid.length;
  return h(
    "div",
    { class: "sid", role: "img", "aria-label": `Semantic ID ${hit.sid_text}` },
    hit.sid.map((code, level) =>
      h("i", { class: `chip ${hue(level + 1)}`, title: step(hit, level) }, code),
    ),
    early && h("i", { class: "chip end", title: ending(hit) }, "·"),
  );
}

/** Which channels found the product, and how often it was chosen for this query. */
function sources(hit) {
  const weight = hit.count > 0 ? hit.count.toFixed(1) : "";
  const before = weight && `; chosen for this query before (weight ${weight})`;
  return `found by ${hit.channels.map(nameOf).join(", ")}${before}`;
}

function reason(hit) {
  if (hit.probability == null) return "the model's beams did not reach this product";
  const logp = hit.probability > 0 ? Math.log(hit.probability).toFixed(3) : "−∞";
  if (hit.cosine == null) return `log p = ${logp}`;
  const score = hit.score == null ? "−∞" : hit.score.toFixed(3);
  return `log p = ${logp}, cosine of query and product = ${hit.cosine.toFixed(3)}; by both: ${score}`;
}

const chanceOf = (logp) => (logp == null ? "0" : percent(Math.exp(logp)));

function step(hit, level) {
  const chance = chanceOf(hit.level_logp[level]);
  return `level ${level + 1}: code ${hit.sid[level]}, probability ${chance} given the codes before`;
}

function ending(hit) {
  const chance = chanceOf(hit.level_logp[hit.sid.length]);
  return `ends after ${several(hit.sid.length, "code")}, probability ${chance}`;
}

/** The picture; until it is there, or where there is none, a pattern drawn from the Semantic ID. */
export function picture(hit, sizes) {
  const box = h("div", { class: "picture", "aria-hidden": "true" }, pattern(hit, sizes));
  if (REMOTE.test(hit.image_url)) {
    const img = h("img", {
      alt: "",
      loading: "lazy",
      decoding: "async",
      referrerpolicy: "no-referrer",
    });
    img.addEventListener("load", () => img.classList.add("there"));
    img.addEventListener("error", () => img.remove());
    img.src = hit.image_url;
    box.append(img);
  }
  return box;
}

/** Products that share codes share colours and shapes: the ground, a disc, a smaller one. */
function pattern(hit, sizes) {
  const at = (level) =>
    hit.sid[level] == null ? 0.5 : (hit.sid[level] + 0.5) / (sizes[level] || 1);
  const [ground, disc, dot] = [0, 1, 2].map((level) => (360 * at(level) * 1.618) % 360);
  const turn = 2 * Math.PI * at(1);
  const cx = 42 + 20 * Math.cos(turn),
    cy = 42 + 20 * Math.sin(turn);
  const around = turn + Math.PI * (0.5 + at(2));
  const name = hit.category.at(-1) || hit.brand || hit.title || "?";
  return s(
    "svg",
    { viewBox: "0 0 84 84" },
    s("rect", { width: 84, height: 84, fill: `hsl(${ground} 42% 88%)` }),
    s("circle", { cx, cy, r: 33, fill: `hsl(${disc} 44% 74% / .75)` }),
    s("circle", {
      cx: 42 + 24 * Math.cos(around),
      cy: 42 + 24 * Math.sin(around),
      r: 14,
      fill: `hsl(${dot} 50% 64% / .75)`,
    }),
    s(
      "text",
      {
        x: 42,
        y: 51,
        "text-anchor": "middle",
        "font-size": 25,
        "font-weight": 650,
        fill: "rgb(30 34 44 / .62)",
      },
      [...name][0].toUpperCase(),
    ),
  );
}

function spent(timing) {
  const phases = ["prompt", "prefill", "decode", "cards"];
  if (timing.total == null) return null; // a deadline, or nothing that a model would read
  const total = Math.max(timing.total, 1e-9);
  const words = [...phases, "wait"]
    .map((phase) => `${phase} ${ms(timing[phase] ?? 0)}`)
    .join(" · ");
  return h(
    "span",
    { class: "spent", title: words },
    h(
      "i",
      { "aria-hidden": "true" },
      phases.map((phase) =>
        h("u", { class: phase, style: { width: `${(100 * (timing[phase] ?? 0)) / total}%` } }),
      ),
    ),
    ms(timing.total),
  );
}
