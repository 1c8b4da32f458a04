// Live latency: the searches of this page since it was opened, as the server and as the reader saw
// them. Nothing is asked of the server for it.
import { $, h, ms, several } from "./dom.js";

const KEPT = 200;
const records = []; // oldest first

/** Note a search: `timing` of the answer, and `whole`, ms from the click to the answer. */
export function note(query, what, timing, whole) {
  records.push({ query, what, timing, whole, at: new Date() });
  if (records.length > KEPT) records.shift();
  badge();
  if (!$("view-latency").hidden) show();
}

/** The q-quantile of numbers, by the nearest rank; null of none. */
export function quantile(values, q) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted.length
    ? sorted[Math.min(sorted.length - 1, Math.ceil(q * sorted.length) - 1)]
    : null;
}

const ROWS = [
  ["seen here", (one) => one.whole, "from the click to the answer, network included"],
  ["server", (one) => one.timing.total, "the pass that answered"],
  ["waiting", (one) => one.timing.wait, "for its turn in the queue"],
  ["prompt", (one) => one.timing.prompt, "reading the query"],
  ["prefill", (one) => one.timing.prefill, "the model reads the prompt"],
  ["decode", (one) => one.timing.decode, "the beams, level by level"],
  ["cards", (one) => one.timing.cards, "channels, order, product data"],
];

function badge() {
  const seen = records.map((one) => one.whole);
  $("badge").replaceChildren(
    h("span", {}, "p50 ", h("b", {}, ms(quantile(seen, 0.5)))),
    h("span", {}, "p95 ", h("b", {}, ms(quantile(seen, 0.95)))),
  );
  $("badge").hidden = false;
}

/** Show the table and the last searches. */
export function show() {
  $("latency-hint").hidden = records.length > 0;
  $("latency").hidden = !records.length;
  if (!records.length) return;
  $("latency").replaceChildren(quantiles(), bars(), last());
}

function quantiles() {
  return h(
    "table",
    { class: "numbers" },
    h(
      "caption",
      {},
      `The last ${several(records.length, "search", "searches")} of this page`,
    ),
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        ["", "p50", "p95", "slowest"].map((name) =>
          name ? h("th", { scope: "col" }, name) : h("td"),
        ),
      ),
    ),
    h(
      "tbody",
      {},
      ROWS.map(([name, read, words]) => {
        const values = records.map(read).filter((value) => value != null);
        const cells = [0.5, 0.95, 1].map((q) =>
          h("td", {}, values.length ? ms(quantile(values, q)) : "–"),
        );
        return h("tr", {}, h("th", { scope: "row" }, name, h("small", {}, words)), cells);
      }),
    ),
  );
}

/** One bar per search, oldest first; the table beside it is its text. */
function bars() {
  const slowest = Math.max(...records.map((one) => one.whole), 1);
  const words = `Each search's time, oldest first; the tallest bar is ${ms(slowest)}`;
  return h(
    "figure",
    { class: "spark" },
    h(
      "div",
      { role: "img", "aria-label": words },
      records
        .slice(-60)
        .map((one) =>
          h("i", {
            style: { height: `${(100 * one.whole) / slowest}%` },
            title: `${one.query || "no query"}: ${ms(one.whole)}`,
          }),
        ),
    ),
    h("figcaption", {}, words),
  );
}

function last() {
  const rows = records
    .slice(-20)
    .reverse()
    .map((one) =>
      h(
        "tr",
        {},
        h("td", {}, one.at.toLocaleTimeString("en-GB")),
        h("td", { class: "text" }, one.query || "(no query)"),
        h("td", { class: "text" }, one.what),
        h("td", {}, ms(one.whole)),
        h("td", {}, one.timing.total == null ? "–" : ms(one.timing.total)),
      ),
    );
  return h(
    "div",
    { class: "scroll", tabindex: 0, role: "group", "aria-label": "Last searches" },
    h(
      "table",
      { class: "numbers" },
      h("caption", {}, "One by one, newest first"),
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          ["time", "query", "by", "seen here", "server"].map((name) =>
            h("th", { scope: "col" }, name),
          ),
        ),
      ),
      h("tbody", {}, rows),
    ),
  );
}
