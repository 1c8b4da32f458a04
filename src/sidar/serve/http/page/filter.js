// The filter line: completion, how many items it allows, and what is wrong with it, at the line.
import { $, h, later, several } from "./dom.js";
import { get, post } from "./api.js";
import { combobox } from "./combobox.js";
import { suggest } from "./complete.js";
import { actions, state } from "./state.js";

const values = async (key, text) =>
  (await get("v1/catalogue/values", { key, text, k: 12, model: state.model })).values;

let checked = 0; // number of the latest check, so that a late one is dropped
let right = { text: "", model: null }; // the line that was last found right, and by whom

/** Set the line up; `state.line` is what it was last found to be, never what is wrong. */
export function start() {
  const input = $("filter");
  input.value = state.line;
  combobox(
    input,
    $("filter-list"),
    (text, caret) => suggest(text, caret, state.columns, values),
    () => settle(),
  );
  const settle = later(() => check(), 900);
  input.addEventListener("input", () => {
    clear();
    settle();
  });
  input.addEventListener("change", () => check());
  $("filter-clear").addEventListener("click", () => {
    input.value = "";
    state.chosen.clear();
    check().then(() => actions.search());
    input.focus();
  });
}

/** Ask what the line allows; true where it can be searched with. */
export async function check() {
  const text = $("filter").value.trim() && $("filter").value;
  const mine = ++checked;
  if (text === right.text && right.model === state.model) return true;
  try {
    const body = { filter: text, model: state.model };
    const allows = text ? (await post("v1/catalogue/facets", body)).allowed : null;
    if ($("filter").value.trim() === text.trim()) state.line = text;
    right = { text, model: state.model };
    if (mine === checked) clear(allows == null ? "" : `allows ${several(allows, "item")}`);
    return true;
  } catch (error) {
    if (mine === checked) wrong(text, error.message);
    return false;
  }
}

/** Show an error under the line, and where in the line it was seen. */
export function wrong(text, words) {
  const message = words.replace(/^filter: /, "");
  const column = Number(/^column (\d+):/.exec(message)?.[1] ?? 0);
  right = { text: null, model: null };
  $("filter").setAttribute("aria-invalid", "true");
  $("filter-allows").textContent = "";
  $("filter-error").replaceChildren(
    ...(column ? [h("code", { "aria-hidden": "true" }, pointed(text, column - 1))] : []),
    h("span", {}, message),
  );
  $("filter-error").hidden = false;
}

/** The part of the line around a column, the character there marked. */
function pointed(text, at) {
  const from = Math.max(0, at - 30);
  const before = (from ? "…" : "") + text.slice(from, at);
  return [before, h("mark", {}, text[at] ?? "␣"), text.slice(at + 1, at + 20)];
}

function clear(words = "") {
  $("filter").removeAttribute("aria-invalid");
  $("filter-error").hidden = true;
  $("filter-error").replaceChildren();
  $("filter-allows").textContent = words;
}
