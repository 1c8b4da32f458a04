// Side by side: two bundles, or models, on one query, with the items that moved.
import { $, h, several } from "./dom.js";
import { get, key, post } from "./api.js";
import * as beams from "./beams.js";
import { list } from "./cards.js";
import { state } from "./state.js";

let sides = []; // GET /v1/compare
let answers = [];

/** Set the two choices up; `search()` searches again. */
export function start(search) {
  for (const id of ["left", "right"]) $(id).addEventListener("change", search);
  beams.follow($("compare-answer"), $("compare-beams"));
}

/** Ask what can be compared; true where there are two sides. */
export async function load() {
  const before = [$("left").value, $("right").value];
  sides = (await get("v1/compare")).sides;
  const names = sides.map((side) => side.name);
  const first = names.includes(before[0]) ? before[0] : names[0];
  const second = names.includes(before[1])
    ? before[1]
    : (names.find((name) => name !== first) ?? first);
  $("left").replaceChildren(...sides.map((side) => option(side, first)));
  $("right").replaceChildren(...sides.map((side) => option(side, second)));
  await others(names);
  const alone = sides.length < 2;
  $("compare-hint").hidden = !alone;
  return !alone;
}

const option = (side, chosen) =>
  h(
    "option",
    { value: side.name, selected: side.name === chosen },
    side.state === "model" ? side.name : `${side.name} (${side.state})`,
  );

/** Bundles that an admin's key may load, so that they can be compared. */
async function others(names) {
  const known = key.get() ? await get("v1/bundles").catch(() => null) : null;
  const rest = (known?.bundles ?? []).filter((bundle) => !names.includes(bundle.name));
  $("loadable").replaceChildren(
    ...rest.map((bundle) =>
      h(
        "button",
        {
          type: "button",
          onclick: async (event) => {
            event.target.disabled = true;
            event.target.textContent = `loading ${bundle.name} …`;
            try {
              await post(`v1/bundles/${encodeURIComponent(bundle.name)}/load`);
              await load();
              $("right").value = bundle.name;
              $("right").dispatchEvent(new Event("change"));
            } catch (error) {
              event.target.replaceWith(h("p", { class: "note" }, error.message));
            }
          },
        },
        `Load ${bundle.name}`,
      ),
    ),
  );
}

/** Answer `body` from both sides and show them. */
export async function search(body) {
  const pair = [$("left").value, $("right").value];
  const { model, facets, ...request } = body;
  answers = (await post("v1/compare", { sides: pair, request })).answers;
  const [left, right] = answers.map(
    (answer) => new Map(answer.hits.map((hit) => [hit.item_id, hit.rank])),
  );
  const sizes = pair.map((name) => sides.find((side) => side.name === name).codebook_sizes);
  $("compare-lists").replaceChildren(
    list(answers[0], sizes[0], pair[0], (hit) => leaves(right.has(hit.item_id))),
    list(answers[1], sizes[1], pair[1], (hit) => move(left.get(hit.item_id), hit.rank)),
  );
  $("compare-words").textContent = summary(left, right);
  $("compare-answer").hidden = false;
  showBeams(1);
  return answers;
}

/** What changed, in one sentence. */
function summary(left, right) {
  const both = [...right].filter(([id]) => left.has(id));
  const up = both.filter(([id, rank]) => left.get(id) > rank).length;
  const down = both.filter(([id, rank]) => left.get(id) < rank).length;
  const fresh = right.size - both.length,
    gone = left.size - both.length;
  return (
    `${several(both.length, "item")} in both: ${up} moved up, ${down} down, ` +
    `${both.length - up - down} kept their place; ${fresh} new, ${gone} gone.`
  );
}

const leaves = (stays) =>
  stays ? null : h("span", { class: "move gone", title: "not in the right list" }, "gone");

function move(rank, now) {
  if (rank == null) return h("span", { class: "move new", title: "not in the left list" }, "new");
  if (rank === now) return h("span", { class: "move same", title: "same place on the left" }, "=");
  const up = rank > now,
    places = Math.abs(rank - now);
  return h(
    "span",
    { class: `move ${up ? "up" : "down"}`, title: `place ${rank} on the left` },
    h("span", { "aria-hidden": "true" }, up ? "▲ " : "▼ "),
    h("span", { class: "unseen" }, up ? "up " : "down "),
    String(places),
  );
}

function showBeams(which) {
  const tabs = h(
    "div",
    { class: "models", role: "group", "aria-label": "Side" },
    answers.map((answer, at) =>
      h(
        "button",
        { type: "button", "aria-pressed": String(at === which), onclick: () => showBeams(at) },
        answer.model,
      ),
    ),
  );
  beams.show($("compare-beams"), answers[which], tabs);
}

/** Whether a query can be compared now. */
export const ready = () => sides.length > 1 && state.info != null;
