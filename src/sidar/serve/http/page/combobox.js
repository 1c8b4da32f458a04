// A text field with a list of suggestions, after the ARIA combobox pattern: arrows move, Enter and
// Tab take, Escape closes.
import { h } from "./dom.js";

/**
 * `suggest(text, caret)` → {from, to, options: [{text, label, note}]} or null (may be a promise);
 * `pick(option)`: called after an option was put in.
 */
export function combobox(input, list, suggest, pick = () => {}) {
  let found = null;
  let active = -1;
  let asked = 0;

  const close = () => {
    asked += 1;
    found = null;
    active = -1;
    list.hidden = true;
    list.replaceChildren();
    input.setAttribute("aria-expanded", "false");
    input.removeAttribute("aria-activedescendant");
  };

  const mark = (at) => {
    active = at;
    [...list.children].forEach((row, i) => row.setAttribute("aria-selected", String(i === at)));
    const row = list.children[at];
    if (!row) return;
    input.setAttribute("aria-activedescendant", row.id);
    row.scrollIntoView({ block: "nearest" });
  };

  const take = (at) => {
    const option = found.options[at];
    const { from, to } = found;
    input.value = input.value.slice(0, from) + option.text + input.value.slice(to);
    const caret = from + option.text.length;
    close();
    input.focus();
    input.setSelectionRange(caret, caret);
    pick(option);
    if (!option.last) open();
  };

  const row = (option, at) =>
    h(
      "li",
      {
        role: "option",
        id: `${list.id}-${at}`,
        "aria-selected": "false",
        // pointerdown, because a click would come after the field has lost the focus
        onpointerdown: (event) => {
          event.preventDefault();
          take(at);
        },
      },
      h("span", {}, option.label ?? option.text),
      option.note && h("small", {}, option.note),
    );

  async function open() {
    const mine = ++asked;
    const made = await suggest(input.value, input.selectionStart ?? input.value.length);
    if (mine !== asked || document.activeElement !== input) return;
    if (!made?.options.length) {
      close();
      return;
    }
    found = made;
    active = -1;
    list.replaceChildren(...made.options.map(row));
    list.hidden = false;
    input.setAttribute("aria-expanded", "true");
    input.removeAttribute("aria-activedescendant");
  }

  input.addEventListener("input", open);
  input.addEventListener("focus", open);
  input.addEventListener("blur", close);
  input.addEventListener("keydown", (event) => {
    const n = found?.options.length ?? 0;
    if (event.key === "Escape" && n) {
      event.preventDefault();
      close();
      return;
    }
    if (event.key === "ArrowDown" || (event.key === " " && event.ctrlKey)) {
      event.preventDefault();
      if (n) mark((active + 1) % n);
      else open();
    } else if (event.key === "ArrowUp" && n) {
      event.preventDefault();
      mark((active <= 0 ? n : active) - 1);
    } else if ((event.key === "Enter" || event.key === "Tab") && active >= 0) {
      event.preventDefault();
      take(active);
    }
  });
  return { close };
}
