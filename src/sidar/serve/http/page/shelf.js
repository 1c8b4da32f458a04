// The shelf: walk the tree of Semantic IDs, with what lies below each prefix.
import { $, h, count, hue, several } from "./dom.js";
import { get } from "./api.js";
import { about, picture } from "./cards.js";
import { actions, model, state, wholeFilter } from "./state.js";

const PAGE = 48;
let asked = 0;
let at = { prefix: "", offset: 0 };

/** Set the controls up. */
export function start() {
  for (const id of ["shelf-order", "shelf-filter"])
    $(id).addEventListener("change", () => show(at.prefix));
}

/** Show what lies below `prefix`, such as 12-7; empty = the whole catalogue. */
export async function show(prefix, offset = 0) {
  const mine = ++asked;
  at = { prefix, offset };
  const filter = wholeFilter();
  $("shelf-filter").closest("label").hidden = !filter;
  $("shelf-filter-words").textContent = `only ${filter}`;
  const query = {
    prefix,
    offset,
    k: PAGE,
    order: $("shelf-order").value,
    model: state.model,
    filter: $("shelf-filter").checked ? filter : "",
  };
  try {
    const shelf = await get("v1/catalogue/shelf", query);
    if (mine === asked) draw(shelf, offset);
  } catch (error) {
    if (mine !== asked) return;
    $("shelf").replaceChildren(
      h("p", { class: "note" }, error.message.replace(/^prefix: /, "")),
      h("p", {}, h("a", { href: "#shelf" }, "Back to the whole catalogue")),
    );
  }
}

function draw(shelf, offset) {
  const largest = Math.max(...shelf.buckets.map((bucket) => bucket.items), 1);
  const next =
    shelf.depth < shelf.n_levels
      ? `${count(shelf.n_buckets)} of ${several(shelf.codebook_size, "code")} used at level ${shelf.depth + 1}`
      : "a whole Semantic ID";
  const facts = `${several(shelf.items, "product")} in ${several(shelf.sids, "ID")} · ${next}`;
  $("shelf").replaceChildren(
    crumbs(shelf.path),
    h("p", { class: "facts", role: "status" }, shelf.label ? `${shelf.label} · ${facts}` : facts),
    ...(shelf.buckets.length
      ? [
          h(
            "ol",
            { class: "buckets" },
            shelf.buckets.map((bucket) => h("li", {}, card(bucket, shelf.depth + 1, largest))),
          ),
        ]
      : []),
    ...(shelf.here.length ? [here(shelf)] : []),
    pager(Math.max(shelf.n_buckets, shelf.n_here), offset),
  );
}

/** The way from the whole catalogue to here. */
function crumbs(path) {
  const last = path.length - 1;
  return h(
    "nav",
    { "aria-label": "Way through the tree" },
    h(
      "ol",
      { class: "crumbs" },
      path.map((step, depth) => {
        const words = depth ? h("i", { class: `chip ${hue(depth)}` }, step.code) : "Catalogue";
        const name = depth && step.label ? h("span", {}, step.label) : null;
        const label = depth ? `prefix ${step.text}` : "whole catalogue";
        return h(
          "li",
          {},
          depth === last
            ? h(
                "span",
                { "aria-current": "location", "aria-label": label, role: "group" },
                words,
                name,
              )
            : h(
                "a",
                { href: depth ? `#shelf/${step.text}` : "#shelf", "aria-label": label },
                words,
                name,
              ),
        );
      }),
    ),
  );
}

function card(bucket, depth, largest) {
  const example = bucket.items > 1 && bucket.label ? bucket.label : bucket.example;
  const several_ = bucket.items > 1 && bucket.label;
  return h(
    "a",
    { class: `bucket ${hue(depth)}`, href: `#shelf/${bucket.text}`, "data-sid": bucket.text },
    h(
      "span",
      { class: "row" },
      h("i", { class: `chip ${hue(depth)}` }, bucket.code),
      h("b", {}, several(bucket.items, "product")),
    ),
    h("span", { class: `label${several_ ? "" : " eg"}` }, example || "no name"),
    several_ && h("span", { class: "soft" }, `e.g. ${bucket.example}`),
    h(
      "span",
      { class: "size", "aria-hidden": "true" },
      h("u", { style: { width: `${Math.max(1.5, (100 * bucket.items) / largest)}%` } }),
    ),
  );
}

/** The products whose ID is this prefix. */
function here(shelf) {
  const sizes = model().codebook_sizes;
  return h(
    "section",
    { class: "here" },
    h(
      "h2",
      {},
      shelf.n_here === 1
        ? "The product of this ID"
        : `The ${count(shelf.n_here)} products that share this ID`,
    ),
    h(
      "ol",
      {},
      shelf.here.map((item) =>
        h(
          "li",
          { class: "card" },
          picture(item, sizes),
          h(
            "div",
            { class: "body" },
            h("h3", {}, item.title || item.item_id),
            about(item),
            h(
              "div",
              { class: "meta" },
              h("code", {}, item.item_id),
              h(
                "button",
                {
                  type: "button",
                  class: "link",
                  "aria-label": `Why is ${item.title || item.item_id} not in the answer?`,
                  onclick: () => actions.why(item.item_id),
                },
                "Why not in the answer?",
              ),
            ),
          ),
        ),
      ),
    ),
  );
}

function pager(n, offset) {
  if (n <= PAGE) return h("span");
  const to = Math.min(offset + PAGE, n);
  const button = (words, next, off) =>
    h(
      "button",
      {
        type: "button",
        disabled: off,
        onclick: () => show(at.prefix, next).then(() => scrollTo(0, 0)),
      },
      words,
    );
  return h(
    "div",
    { class: "pager" },
    button("← Before", Math.max(0, offset - PAGE), offset === 0),
    h("span", {}, `${count(offset + 1)} to ${count(to)} of ${count(n)}`),
    button("More →", offset + PAGE, to >= n),
  );
}
