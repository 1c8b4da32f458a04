// Where an answer comes from: the share of memory, model, dense and lexical in a hit.
import { h, percent } from "./dom.js";

/** Channels by their name in an answer, in the order of the legend. */
const NAMES = {
  memory: "memory",
  generative: "model",
  dense: "dense",
  bm25: "lexical",
  prior: "popularity",
};
const MEANING = {
  memory: "was chosen for this query before",
  generative: "the language model wrote its ID",
  dense: "its vector is near the query's",
  bm25: "its words are the query's",
  prior: "is chosen often, whatever the query",
};

export const nameOf = (channel) => NAMES[channel] ?? channel;

/** A bar of the shares with its text; null where the answer does not tell them. */
export function bar(hit) {
  const shares = Object.entries(hit.origins);
  if (!shares.length) return null;
  const words = shares.map(([name, share]) => `${nameOf(name)} ${percent(share)}`);
  return h(
    "div",
    { class: "origins" },
    h(
      "span",
      { class: "bar", role: "img", "aria-label": `comes from ${words.join(", ")}` },
      shares.map(([name, share]) =>
        h("u", {
          class: `from-${name}`,
          style: { width: `${100 * share}%` },
          title: `${nameOf(name)} ${percent(share)}: ${MEANING[name] ?? ""}`,
        }),
      ),
    ),
    h("span", { class: "most", "aria-hidden": "true" }, words[0]),
  );
}

/** What the colours stand for; null where no hit of the answer has shares. */
export function legend(answer) {
  const present = new Set(answer.hits.flatMap((hit) => Object.keys(hit.origins)));
  if (!present.size) return null;
  return h(
    "p",
    { class: "legend" },
    "Comes from",
    Object.keys(NAMES)
      .filter((name) => present.has(name))
      .map((name) =>
        h("span", { title: MEANING[name] }, h("i", { class: `from-${name}` }), NAMES[name]),
      ),
  );
}
