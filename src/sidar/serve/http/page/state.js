// What the page knows, and how it stands in the address, so that a link shows the same again.

/** `actions` are filled in by app.js, so that no module has to know who searches. */
export const actions = { search() {}, why() {} };

export const state = {
  info: null, // GET /v1/info
  model: null, // label of the model that answers
  columns: [], // GET /v1/catalogue/columns
  history: new Map(), // item id -> title, oldest first
  chosen: new Map(), // facet key -> Map(value as JSON -> value), or {low, high}
  line: "", // the filter as it was last found right
};

/** What the server says of the model that answers. */
export const model = (label = state.model) =>
  state.info.models.find((one) => one.label === label) ?? state.info.models[0];

const BARE = /^[^\W\d][\w.-]*$/u;
const WORDS = /^(AND|OR|NOT|IN|UNDER|IS|NULL|EMPTY|TO|AT|LEAST|OF|HAS_ID|TRUE|FALSE)$/i;

/** A column's name as the filter line writes it. */
export const quoted = (key) =>
  BARE.test(key) && !WORDS.test(key) ? key : `\`${key.replaceAll("`", "``")}\``;

/** A value as the filter line writes it. */
export const literal = (value) =>
  typeof value === "string" && BARE.test(value) && !WORDS.test(value)
    ? value
    : JSON.stringify(value);

/** The condition of one facet's choice; empty where there is none. */
export function condition(key, choice) {
  const name = quoted(key);
  if (choice instanceof Map) {
    const values = [...choice.values()].map(literal);
    if (values.length < 2) return values.length ? `${name} = ${values[0]}` : "";
    return `${name} IN [${values.join(", ")}]`;
  }
  const { low, high } = choice;
  if (low != null && high != null) return `${name} ${low} TO ${high}`;
  if (low != null) return `${name} >= ${low}`;
  return high != null ? `${name} <= ${high}` : "";
}

/** Line and facets as one filter; `without`: a facet whose own choice is left out. */
export function wholeFilter(without = null) {
  const facets = [...state.chosen]
    .filter(([key]) => key !== without)
    .map(([key, choice]) => condition(key, choice))
    .filter(Boolean);
  const line = state.line.trim();
  if (!line || !facets.length) return [line, ...facets].filter(Boolean).join(" AND ");
  return [`(${line})`, ...facets].join(" AND ");
}

/** Write the state into the address. */
export function remember(query) {
  const shown = new URLSearchParams();
  if (query != null) shown.set("q", query);
  if (state.line) shown.set("filter", state.line);
  for (const [key, choice] of state.chosen) {
    if (condition(key, choice)) shown.append("facet", JSON.stringify([key, plain(choice)]));
  }
  if (state.info.models.length > 1) shown.set("model", state.model);
  window.history.replaceState(null, "", `?${shown}${location.hash}`);
}

const plain = (choice) => (choice instanceof Map ? [...choice.values()] : choice);

/** Read filter and facets from the address; what is no facet is passed over. */
export function recall(wanted) {
  state.line = wanted.get("filter") ?? "";
  for (const text of wanted.getAll("facet")) {
    try {
      const [key, choice] = JSON.parse(text);
      const values = Array.isArray(choice) && new Map(choice.map((v) => [JSON.stringify(v), v]));
      state.chosen.set(String(key), values || { low: choice.low, high: choice.high });
    } catch {
      /* an address that somebody wrote by hand */
    }
  }
}
