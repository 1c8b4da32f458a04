// What may come next in a filter line: a column, an operator, a value, or AND. The server alone
// decides what is right; this only knows enough of the grammar to help (docs/filters.md).
import { literal, quoted } from "./state.js";

const TOKEN = new RegExp(
  [
    String.raw`\s*(?:`,
    String.raw`(?<string>"(?:[^"\\]|\\.)*"?)`,
    "|(?<quoted>`(?:[^`]|``)*`?)",
    String.raw`|(?<sign><=|>=|!=|[=<>()\[\]{},*])`,
    String.raw`|(?<word>[^\s"${"`"}=<>!()\[\]{},*]+)`,
    ")",
  ].join(""),
  "yu",
);

const BY_KIND = {
  numbers: ["<", "<=", ">", ">=", "="],
  text: ["=", "!=", "IN [", "NOT IN ["],
  booleans: ["= true", "= false"],
  times: [">=", "<"],
};
const MEANING = {
  "<": "below",
  "<=": "at most",
  ">": "above",
  ">=": "at least",
  "=": "is",
  "!=": "is another",
  "IN [": "is one of",
  "NOT IN [": "is none of",
  "UNDER [": "path begins with",
  "IS NULL": "has no value",
  "IS NOT NULL": "has a value",
};

/** The tokens of `text` with their places; whatever cannot be read is passed over. */
export function tokens(text) {
  const out = [];
  let at = 0;
  while (at < text.length) {
    TOKEN.lastIndex = at;
    const match = TOKEN.exec(text);
    if (!match || !match[0].length) {
      at += 1;
      continue;
    }
    const [kind, token] = Object.entries(match.groups).find(([, value]) => value != null) ?? [];
    at += match[0].length;
    if (kind) out.push({ kind, text: token, from: at - token.length, to: at });
  }
  return out;
}

/** Where the end of `before` stands: {want: "key" | "operator" | "value" | "join", key, list}. */
export function place(before) {
  let want = "key",
    key = null,
    list = false;
  for (const { kind, text } of before) {
    const word = kind === "word" ? text.toUpperCase() : "";
    if (want === "key") {
      if (["NOT", "AND", "OR"].includes(word) || text === "(" || text === ",") continue;
      if (word === "HAS_ID") {
        want = "value";
        key = null;
        continue;
      }
      key = kind === "quoted" ? text.slice(1, -1).replaceAll("``", "`") : text;
      want = "operator";
    } else if (want === "operator") {
      if (["NOT", "IS"].includes(word)) continue;
      if (["NULL", "EMPTY"].includes(word)) want = "join";
      else if (["IN", "UNDER"].includes(word) || /^(=|!=|<|<=|>|>=)$/.test(text)) want = "value";
      else if (!["[", "{"].includes(text)) want = "join"; // a range: 10 TO 50
    } else if (want === "value") {
      if (text === "[") list = true;
      else if (text === "]") {
        list = false;
        want = "join";
      } else if (!list) want = "join";
    } else if (["AND", "OR"].includes(word) || text === ",") want = "key";
  }
  return { want, key, list };
}

/**
 * Suggestions at `caret`: {from, to, options}, or null. `columns` as the server describes them,
 * `values(key, text)` → [{value, count}] (a promise).
 */
export async function suggest(text, caret, columns, values) {
  const before = tokens(text.slice(0, caret));
  const last = before.at(-1);
  // the token that is being written ends at the caret
  const open = last && last.to === caret && last.kind !== "sign" ? before.pop() : null;
  const { want, key, list } = place(before);
  const from = open?.from ?? caret,
    to = caret;
  const typed = (open?.text ?? "").replace(/^["`]/, "");
  const space = !open && caret > 0 && !/[\s([]$/.test(text.slice(0, caret)) ? " " : "";
  const options = (await wanted(want, key, list, typed, columns, values)).map((option) => ({
    ...option,
    label: option.label ?? option.text.trim(),
    text: space + option.text,
  }));
  return options.length ? { from, to, options } : null;
}

async function wanted(want, key, list, typed, columns, values) {
  const low = typed.toLowerCase();
  if (want === "key") {
    return columns
      .filter((column) => column.key.toLowerCase().includes(low))
      .slice(0, 12)
      .map((column) => ({
        text: `${quoted(column.key)} `,
        label: column.key,
        note: about(column),
      }));
  }
  const column = columns.find((one) => one.key === key);
  if (want === "operator") {
    return operators(column)
      .filter((operator) => operator.toLowerCase().startsWith(low))
      .map((text) => ({ text: /[[]$/.test(text) ? text : `${text} `, note: MEANING[text] }));
  }
  if (want === "value") {
    const found = key == null ? [] : await values(key, typed).catch(() => []);
    return found
      .map((one) => ({
        text: `${literal(one.value)}${list ? "" : " "}`,
        label: String(one.value),
        note: `${one.count.toLocaleString("en-US")} items`,
      }))
      .concat(
        list && !typed
          ? [
              { text: ", ", label: ",", note: "another" },
              { text: "] ", label: "]", note: "end of the list" },
            ]
          : [],
      );
  }
  return ["AND", "OR"]
    .filter((word) => word.toLowerCase().startsWith(low))
    .map((word) => ({ text: `${word} ` }));
}

function operators(column) {
  const kinds = column?.kinds ?? ["text", "numbers"];
  const known = kinds.flatMap((kind) => BY_KIND[kind] ?? []);
  const range = column?.low != null ? [`${column.low} TO ${column.high}`] : [];
  const path = kinds.includes("lists") ? ["UNDER ["] : [];
  return [...new Set([...known, ...range, ...path, "IS NULL", "IS NOT NULL"])];
}

const about = (column) => {
  const range = column.low != null ? `, ${column.low} to ${column.high}` : "";
  return `${column.kinds.join(", ")}${range}`;
};
