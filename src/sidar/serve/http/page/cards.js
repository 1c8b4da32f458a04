// Product cards.
import { h, s, hue, percent } from "./dom.js";

const REMOTE = /^https?:\/\//i;

/** A list of results with its head line. `state`: {history: Set, toggle(hit)}; `before`: item id → rank elsewhere. */
export function list(answer, sizes, state, title, before) {
  const fused = answer.fuse !== "none"; // then the bar is the item's own probability, not its ID's
  const chance = (hit) => (fused ? Math.exp(hit.score) : hit.probability);
  const best = Math.max(...answer.hits.map(chance), 1e-300);
  return h("section", { class: "list", "data-model": answer.model },
    h("header", {},
      title && h("b", {}, title),
      h("span", {}, `${answer.hits.length} ${answer.hits.length === 1 ? "item" : "items"}`),
      spent(answer.timing_ms)),
    answer.notes.map((note) => h("p", { class: "note" }, note)),
    h("ol", {}, answer.hits.map((hit) => card(hit, chance(hit), best, sizes, state, before))));
}

function card(hit, probability, best, sizes, state, before) {
  const chosen = state.history.has(hit.item_id);
  return h("li", { class: "card", tabindex: 0, "data-rank": hit.rank, "data-sid": hit.sid_text },
    h("span", { class: "rank" }, hit.rank),
    picture(hit, sizes),
    h("div", { class: "body" },
      h("h3", { title: hit.title }, hit.title || hit.item_id),
      h("div", { class: "meta" },
        hit.price != null && h("span", { class: "price" }, hit.price.toLocaleString("en-US", { minimumFractionDigits: 2, maximumFractionDigits: 2 })),
        hit.brand && h("span", {}, hit.brand),
        hit.category.length > 0 && h("span", { class: "path", title: hit.category.join(" › ") }, hit.category.slice(-3).join(" › "))),
      h("div", { class: "why" },
        h("div", { class: "sid", "aria-label": `Semantic ID ${hit.sid_text}` }, hit.sid.map((code, level) =>
          h("i", { class: `chip ${hue(level + 1)}`, title: chance(hit, level) }, code)),
          hit.level_logp.length > hit.sid.length && h("i", { class: "chip end", title: ending(hit) }, "·")),
        h("div", { class: "score", title: reason(hit) },
          h("i", {}, h("u", { style: { width: `${Math.max(1.5, (100 * probability) / best)}%` } })),
          percent(probability)),
        hit.channels.length > 0 && h("div", { class: "found", title: sources(hit) }, hit.channels.join(" · ")))),
    before ? move(before.get(hit.item_id), hit.rank) : null,
    h("button", {
      class: "add", type: "button", "aria-pressed": String(chosen), onclick: (event) => { event.stopPropagation(); state.toggle(hit); },
      title: chosen ? "Take out of the history" : "Put into the history, and search again as someone who touched it",
    }, chosen ? "✓" : "+"));
}

/** Which channels found the product, and how often it was chosen for this query. */
function sources(hit) {
  const before = hit.count > 0 ? `; chosen for this query before (weight ${hit.count.toFixed(1)})` : "";
  return `found by ${hit.channels.join(", ")}${before}`;
}

function reason(hit) {
  if (hit.probability == null) return "the model's beams did not reach this product";
  const logp = hit.probability > 0 ? Math.log(hit.probability).toFixed(3) : "−∞";
  if (hit.cosine == null) return `log p = ${logp}`;
  return `log p = ${logp}, cosine of query and product = ${hit.cosine.toFixed(3)}; ordered by both: ${hit.score == null ? "−∞" : hit.score.toFixed(3)}`;
}

function chance(hit, level) {
  const logp = hit.level_logp[level];
  return `level ${level + 1}: code ${hit.sid[level]}, probability ${logp == null ? 0 : percent(Math.exp(logp))} given the codes before`;
}

function ending(hit) {
  const logp = hit.level_logp[hit.sid.length];
  return `ends after ${hit.sid.length} ${hit.sid.length === 1 ? "code" : "codes"}, probability ${logp == null ? 0 : percent(Math.exp(logp))}`;
}

function move(rank, now) {
  if (rank == null) return h("span", { class: "move new", title: "not in the other list" }, "new");
  if (rank === now) return h("span", { class: "move same", title: "same rank" }, "=");
  const up = rank > now;
  return h("span", { class: `move ${up ? "up" : "down"}`, title: `rank ${rank} in the other list` }, `${up ? "▲" : "▼"} ${Math.abs(rank - now)}`);
}

/** The product's picture; until it is there, or where there is none, a pattern drawn from its Semantic ID. */
function picture(hit, sizes) {
  const box = h("div", { class: "picture", "aria-hidden": "true" }, pattern(hit, sizes));
  if (REMOTE.test(hit.image_url)) {
    const img = h("img", { alt: "", loading: "lazy", decoding: "async", referrerpolicy: "no-referrer" });
    img.addEventListener("load", () => img.classList.add("there"));
    img.addEventListener("error", () => img.remove());
    img.src = hit.image_url;
    box.append(img);
  }
  return box;
}

/** Products that share codes share colours and shapes: level 1 the ground, level 2 a disc, level 3 a smaller one. */
function pattern(hit, sizes) {
  const at = (level) => (hit.sid[level] == null ? 0.5 : (hit.sid[level] + 0.5) / (sizes[level] || 1));
  const [ground, disc, dot] = [0, 1, 2].map((level) => (360 * at(level) * 1.618) % 360);
  const turn = 2 * Math.PI * at(1);
  const cx = 42 + 20 * Math.cos(turn), cy = 42 + 20 * Math.sin(turn);
  const around = turn + Math.PI * (0.5 + at(2));
  const name = hit.category.at(-1) || hit.brand || hit.title || "?";
  return s("svg", { viewBox: "0 0 84 84" },
    s("rect", { width: 84, height: 84, fill: `hsl(${ground} 42% 88%)` }),
    s("circle", { cx, cy, r: 33, fill: `hsl(${disc} 44% 74% / .75)` }),
    s("circle", { cx: 42 + 24 * Math.cos(around), cy: 42 + 24 * Math.sin(around), r: 14, fill: `hsl(${dot} 50% 64% / .75)` }),
    s("text", { x: 42, y: 51, "text-anchor": "middle", "font-size": 25, "font-weight": 650, fill: "rgb(30 34 44 / .62)" },
      [...name][0].toUpperCase()));
}

function spent(timing) {
  const phases = ["prompt", "prefill", "decode", "cards"];
  const total = Math.max(timing.total, 1e-9);
  const words = [...phases, "wait"].map((phase) => `${phase} ${(timing[phase] ?? 0).toFixed(1)} ms`).join(" · ");
  return h("span", { class: "spent", title: words },
    h("i", {}, phases.map((phase) => h("u", { class: phase, style: { width: `${(100 * (timing[phase] ?? 0)) / total}%` } }))),
    `${timing.total < 10 ? timing.total.toFixed(1) : Math.round(timing.total)} ms`);
}
