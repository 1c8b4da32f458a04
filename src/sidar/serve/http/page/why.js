// "Why not this product?": where an item stands in the answer, or at which level its Semantic ID
// fell out of the beam, against whom and by how much.
import { $, h, hue, percent } from "./dom.js";
import { get, post } from "./api.js";
import { combobox } from "./combobox.js";
import { state } from "./state.js";

let body = () => ({}); // the search that an item is missing from
let asked = 0;

/** Set the form up; `asks()` gives the search that an item is missing from. */
export function start(asks) {
  body = asks;
  const input = $("expected");
  combobox(input, $("expected-list"), items, (option) => {
    input.value = option.text;
    explain(option.text);
  });
  $("why-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = input.value.trim();
    if (text) explain(text);
  });
}

async function items(text) {
  if (text.trim().length < 2) return null;
  const query = { text, k: 8, model: state.model };
  const found = await get("v1/catalogue/items", query).catch(() => ({ items: [] }));
  const options = found.items.map((item) => ({
    text: item.item_id,
    label: item.title || item.item_id,
    note: item.item_id,
    last: true,
  }));
  return { from: 0, to: text.length, options };
}

/** Open the form, for somebody who misses an item. */
export function ask() {
  $("why-box").open = true;
  $("why-box").scrollIntoView({ block: "center" });
  $("expected").focus({ preventScroll: true });
}

/** Forget the last explanation: it was of another search. */
export function clear() {
  asked += 1;
  $("why").replaceChildren();
}

/** Explain the place of `text`, an item's id or words of its title. */
export async function explain(text) {
  const mine = ++asked;
  $("why-box").open = true;
  $("why").replaceChildren(h("p", { class: "soft" }, "Searching …"));
  try {
    const id = await idOf(text);
    const { query, k, beam, exact, profile, history, fuse, filter, model } = body();
    const wanted = { query, k, beam, exact, profile, history, fuse, filter, model };
    const told = await post(`v1/explain/${encodeURIComponent(id)}`, wanted);
    if (mine === asked) $("why").replaceChildren(...explanation(told));
  } catch (error) {
    const words = error.message.replace(/^item_id: /, "");
    if (mine === asked) $("why").replaceChildren(h("p", { class: "note" }, words));
  }
}

/** The id that a text is, or that of the first item whose title has its words. */
async function idOf(text) {
  const { items } = await get("v1/catalogue/items", { text, k: 1, model: state.model });
  return items[0]?.item_id ?? text;
}

function explanation(told) {
  return [
    h("h3", {}, told.title || told.item_id),
    h("p", { class: "verdict" }, verdict(told)),
    ladder(told),
    told.fell_out && duel(told.fell_out),
    h("p", { class: "soft" }, `In full: ${told.words}.`),
  ].filter(Boolean);
}

function verdict(told) {
  if (told.returned) return `It is in the answer, at place ${told.rank}.`;
  const place =
    told.rank == null
      ? ""
      : ` Other channels put it at place ${told.rank.toLocaleString("en-US")}.`;
  if (told.fell_out) return `The model gave it up at level ${told.fell_out.level}.${place}`;
  if (told.rank == null)
    return "The beam reached its ID, but the item is beyond the places looked at.";
  return (
    `It was reached and stands at place ${told.rank.toLocaleString("en-US")}, ` +
    `its score ${told.behind.toFixed(3)} below the last one shown.`
  );
}

/** One step per code: followed, given up, or not reached. */
function ladder(told) {
  const end = told.fell_out?.level ?? told.sid.length + 1;
  const ended = told.fell_out && told.fell_out.level > told.sid.length; // a short ID that was outlived
  return h(
    "ol",
    { class: "ladder", "aria-label": `Semantic ID ${told.sid.join("-")}, level by level` },
    told.sid.map((code, at) => {
      const level = at + 1;
      const kind = level < end || ended ? "kept" : level === end ? "lost" : "after";
      const words = { kept: "followed", lost: "fell out here", after: "not reached" }[kind];
      return h(
        "li",
        { class: kind },
        h("i", { class: `chip ${hue(level)}` }, code),
        h("span", {}, words),
      );
    }),
    ended &&
      h(
        "li",
        { class: "lost" },
        h("i", { class: "chip end" }, "·"),
        h("span", {}, "ended, and was outlived"),
      ),
  );
}

/** The prefix that was lost against the last one kept, as two bars of one scale. */
function duel(lost) {
  const rows = [
    ["this item", lost.prefix, lost.logp],
    ["last one kept", lost.against, lost.against_logp],
  ];
  const best = Math.exp(lost.against_logp);
  const times = lost.margin == null ? null : Math.exp(lost.margin);
  const by =
    times == null
      ? "the model gives its prefix no probability"
      : `${times < 10 ? times.toFixed(2) : Math.round(times).toLocaleString("en-US")} times as probable`;
  return h(
    "div",
    { class: "duel" },
    h(
      "table",
      {},
      h(
        "caption",
        {},
        `Level ${lost.level}: the last one kept is ${times == null ? "ahead: " : ""}${by}`,
      ),
      h(
        "tbody",
        {},
        rows.map(([name, prefix, logp]) => {
          const p = logp == null ? 0 : Math.exp(logp);
          const width = `${Math.max(1, (100 * p) / Math.max(best, 1e-300))}%`;
          return h(
            "tr",
            {},
            h("th", { scope: "row" }, name),
            h("td", {}, h("code", {}, prefix)),
            h(
              "td",
              { class: "wide" },
              h("i", { "aria-hidden": "true" }, h("u", { style: { width } })),
            ),
            h("td", {}, percent(p)),
          );
        }),
      ),
    ),
  );
}
