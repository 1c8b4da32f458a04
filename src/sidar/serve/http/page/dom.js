// The only way this page makes elements: text goes in as text, never as markup, so product data
// cannot become code.

/** An element: h("p", {class: "note", title}, "text", child …); null and false are left out. */
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
export function s(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value == null || value === false) continue;
    if (name === "style") {
      for (const [key, v] of Object.entries(value)) element.style.setProperty(key, v);
    } else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child != null && child !== false));
  return element;
}

/** The element of an id. */
export const $ = (id) => document.getElementById(id);

/** A count as people read it: 6,764. */
export const count = (n) => n.toLocaleString("en-US");

/** A count with its noun: 1 item, 2 items. */
export const several = (n, noun, plural = `${noun}s`) => `${count(n)} ${n === 1 ? noun : plural}`;

/** A probability: 31 %, 4.2 %, 0.03 %, 1e-6. */
export function percent(p) {
  if (p >= 0.0995) return `${Math.round(100 * p)}\u00a0%`;
  if (p >= 0.00995) return `${(100 * p).toFixed(1)}\u00a0%`;
  if (p >= 0.0001) return `${(100 * p).toFixed(2)}\u00a0%`;
  return p > 0 ? p.toExponential(0) : "0";
}

/** A price with two digits. */
export const money = (n) =>
  n.toLocaleString("en-US", { minimumFractionDigits: 2, maximumFractionDigits: 2 });

/** Milliseconds: 3.4 ms, 120 ms. */
export const ms = (n) => `${n < 10 ? n.toFixed(1) : Math.round(n)} ms`;

/** The class that colours a level, 1-based. */
export const hue = (depth) => `l${((depth - 1) % 6) + 1}`;

/** A Semantic ID as chips, one per level. */
export const chips = (sid) =>
  h(
    "span",
    { class: "sid" },
    sid.map((code, at) => h("i", { class: `chip ${hue(at + 1)}` }, code)),
  );

/** `run` at most once per `wait` ms of quiet. */
export function later(run, wait) {
  let timer = 0;
  return (...args) => {
    clearTimeout(timer);
    timer = setTimeout(() => run(...args), wait);
  };
}
