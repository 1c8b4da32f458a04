// Facets: the values of columns with their counts among the items that are allowed. A facet's own
// choice does not narrow its own counts, so that another value can be added.
import { $, h, count } from "./dom.js";
import { post } from "./api.js";
import { actions, condition, model, state, wholeFilter } from "./state.js";

const SHOWN = 6; // values of a facet before "more"
const FIRST = 3; // attributes that are shown unasked
const open = new Set(); // facets whose values are all shown
let keys = []; // columns that are shown

/** Choose the columns to begin with: brand, category, price, stock, and the commonest attributes. */
export function start() {
  const usable = state.columns.filter(isFacet);
  const always = ["category", "brand", "price", "in_stock"];
  const attributes = usable
    .filter((column) => column.key.startsWith("attributes.") && column.values <= 60)
    .slice(0, FIRST);
  keys = always.filter((key) => usable.some((column) => column.key === key));
  keys.push(...attributes.map((column) => column.key));
  keys.push(...[...state.chosen.keys()].filter((key) => !keys.includes(key)));
}

function isFacet(column) {
  const named = ["item_id", "title", "image_url"].includes(column.key);
  const readable = column.kinds.some((kind) => ["text", "numbers", "booleans"].includes(kind));
  return !named && readable && column.values > 1;
}

const columnOf = (key) => state.columns.find((column) => column.key === key);
const isRange = (key) => {
  const column = columnOf(key);
  return column?.low != null && column.values > 8 && !column.kinds.includes("text");
};

/** The columns that a search counts along: those without a choice of their own. */
export const counted = () =>
  keys.filter((key) => !isRange(key) && !state.chosen.has(key)).slice(0, 20);

/** Show the counts of an answer; facets with a choice ask for theirs themselves. */
export async function show(answer) {
  const counts = { ...answer.facets };
  await Promise.all(
    [...state.chosen.keys()]
      .filter((key) => !isRange(key))
      .map(async (key) => {
        const body = { filter: wholeFilter(key) || null, facets: [key], model: state.model };
        const made = await post("v1/catalogue/facets", body).catch(() => null);
        counts[key] = made?.facets[key] ?? [];
      }),
  );
  const allowed = answer.allowed ?? model().items;
  $("facets-head").textContent =
    answer.allowed == null
      ? `${count(allowed)} products`
      : `${count(allowed)} of ${count(model().items)} products`;
  $("facets").replaceChildren(...keys.map((key) => facet(key, counts[key] ?? [])), more());
  chips();
}

function facet(key, values) {
  const name = key.replace(/^attributes\./, "");
  const body = isRange(key) ? range(key) : choices(key, values);
  return h(
    "fieldset",
    { class: "facet", "data-key": key },
    h("legend", {}, name),
    body ?? h("p", { class: "none" }, "no values"),
  );
}

function choices(key, values) {
  const chosen = state.chosen.get(key) ?? new Map();
  const known = new Set(values.map((one) => JSON.stringify(one.value)));
  const gone = [...chosen].filter(([json]) => !known.has(json));
  const rows = [...values, ...gone.map(([, value]) => ({ value, count: 0 }))];
  if (!rows.length) return null;
  const all = open.has(key);
  const shown = all
    ? rows
    : rows.filter((row, at) => at < SHOWN || chosen.has(JSON.stringify(row.value)));
  const button =
    rows.length > SHOWN &&
    h(
      "button",
      {
        type: "button",
        class: "link",
        "aria-expanded": String(all),
        onclick: (event) => {
          if (all) open.delete(key);
          else open.add(key);
          event.target.closest("fieldset").replaceWith(facet(key, values));
        },
      },
      all ? "fewer" : `${rows.length - SHOWN} more`,
    );
  return h(
    "div",
    {},
    shown.map((row) => choice(key, row, chosen)),
    button,
  );
}

function choice(key, row, chosen) {
  const json = JSON.stringify(row.value);
  const toggle = (event) => {
    const own = state.chosen.get(key) ?? new Map();
    if (event.target.checked) own.set(json, row.value);
    else own.delete(json);
    if (own.size) state.chosen.set(key, own);
    else state.chosen.delete(key);
    actions.search();
  };
  return h(
    "label",
    {},
    h("input", { type: "checkbox", checked: chosen.has(json), onchange: toggle }),
    h("span", {}, String(row.value)),
    h("small", {}, count(row.count)),
  );
}

function range(key) {
  const column = columnOf(key),
    chosen = state.chosen.get(key) ?? {};
  const field = (bound, words) =>
    h("input", {
      type: "number",
      step: "any",
      "aria-label": `${key}, ${words}`,
      value: chosen[bound],
      placeholder: bound === "low" ? column.low : column.high,
      onchange: (event) => {
        const next = { ...state.chosen.get(key) };
        next[bound] = event.target.value === "" ? null : Number(event.target.value);
        if (next.low == null && next.high == null) state.chosen.delete(key);
        else state.chosen.set(key, next);
        actions.search();
      },
    });
  return h("div", { class: "range" }, field("low", "at least"), "to", field("high", "at most"));
}

/** A list of the other columns, to be shown as well. */
function more() {
  const others = state.columns.filter((column) => isFacet(column) && !keys.includes(column.key));
  if (!others.length) return h("span");
  return h(
    "select",
    {
      class: "more-facets",
      "aria-label": "Show another column",
      onchange: (event) => {
        keys.push(event.target.value);
        actions.search();
      },
    },
    h("option", { value: "" }, "Another column …"),
    others.map((column) => h("option", { value: column.key }, column.key)),
  );
}

/** What is chosen, under the filter line, each to be taken out. */
export function chips() {
  const chosen = [...state.chosen].map(([key, choice]) => [key, condition(key, choice)]);
  $("chosen").replaceChildren(
    ...chosen
      .filter(([, text]) => text)
      .map(([key, text]) =>
        h(
          "button",
          {
            type: "button",
            "aria-label": `Take out the filter ${text}`,
            onclick: () => {
              state.chosen.delete(key);
              actions.search();
            },
          },
          h("code", {}, text),
          h("span", { "aria-hidden": "true" }, "×"),
        ),
      ),
  );
  $("filter-clear").hidden = !chosen.length && !state.line;
}
