// State and traffic: what is asked, of whom, and what the answer is shown with.
import { h, count } from "./dom.js";
import { list } from "./cards.js";
import * as beams from "./beams.js";

const $ = (id) => document.getElementById(id);
const COMPARE = "compare";
const address = (path) => new URL(`../${path}`, import.meta.url); // beside page/, wherever a proxy or a mount puts it
const history = new Map(); // item id -> title, oldest first
let info = null; // GET /v1/info
let choice = null; // a model's label, or COMPARE
let answers = []; // one per list on screen
let asked = 0; // number of the latest search, so that a late answer to an earlier one is dropped

const state = {
  history,
  toggle(hit) {
    if (!history.delete(hit.item_id)) history.set(hit.item_id, hit.title || hit.item_id);
    showHistory();
    search();
  },
};

async function start() {
  for (;;) {
    const reply = await fetch(address("v1/info")).catch(() => null);
    if (reply?.ok) { info = await reply.json(); break; }
    say(reply ? `${(await reply.json().catch(() => ({}))).error ?? "The server is not ready"} …` : "The server does not answer; trying again …");
    await new Promise((done) => setTimeout(done, 1500));
  }
  say(null);
  const wanted = new URLSearchParams(location.search);
  const labels = info.models.map((model) => model.label);
  choice = [...labels, COMPARE].includes(wanted.get("model")) ? wanted.get("model") : labels[0];
  if (labels.length < 2 && choice === COMPARE) choice = labels[0];
  showModels(labels);
  $("examples").replaceChildren(...info.examples.map((text) =>
    h("button", { type: "button", onclick: () => { $("query").value = text; search(); } }, text)));
  if (wanted.has("q")) { $("query").value = wanted.get("q"); search(); }
}

function showModels(labels) {
  const model = info.models.find((each) => each.label === choice) ?? info.models[0];
  $("facts").textContent = `${count(model.items)} products · ${count(model.sids)} IDs · codes ${model.codebook_sizes.join(" / ")}`;
  if (labels.length < 2) { $("models").replaceChildren(); return; }
  $("models").replaceChildren(...[...labels, COMPARE].map((label) =>
    h("button", { type: "button", "aria-pressed": String(label === choice), onclick: () => { choice = label; showModels(labels); if (answers.length) search(); } },
      label === COMPARE ? "Compare" : label)));
}

function showHistory() {
  $("history").hidden = history.size === 0;
  $("history").replaceChildren("Touched before:", ...[...history].map(([id, title]) =>
    h("button", { type: "button", title: "take out", onclick: () => { history.delete(id); showHistory(); search(); } }, h("span", {}, title), "×")));
}

async function search() {
  if (!info) return;
  const mine = ++asked;
  const query = $("query").value;
  const labels = choice === COMPARE ? info.models.slice(0, 2).map((model) => model.label) : [choice];
  const body = {
    query, k: Number($("k").value) || 10, beam: Number($("beam").value) || null,
    exact: $("exact").checked || null, // unchecked: as the bundle was made
    profile: $("profile").value, history: [...history.keys()], explain: true,
    fuse: choice === COMPARE || $("alone").checked ? "none" : null, // a comparison is of models, not of what surrounds them
  };
  const shown = new URLSearchParams({ q: query, ...(info.models.length > 1 && { model: choice }) });
  window.history.replaceState(null, "", `?${shown}`);
  $("answer").classList.add("busy");
  try {
    const found = await Promise.all(labels.map((model) => ask({ ...body, model })));
    if (mine !== asked) return;
    answers = found;
    say(null);
    show();
  } catch (error) {
    if (mine === asked) say(error.message);
  } finally {
    if (mine === asked) $("answer").classList.remove("busy");
  }
}

async function ask(body) {
  const reply = await fetch(address("v1/search"), { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) })
    .catch(() => { throw new Error("The server does not answer."); });
  const answer = await reply.json().catch(() => ({}));
  if (!reply.ok) throw new Error(answer.error ?? `The server answered ${reply.status}.`);
  return answer;
}

function show() {
  const comparing = answers.length > 1;
  const sizes = (answer) => info.models.find((model) => model.label === answer.model).codebook_sizes;
  const ranks = comparing && answers.map((answer) => new Map(answer.hits.map((hit) => [hit.item_id, hit.rank])));
  $("intro").hidden = true;
  $("answer").hidden = false;
  $("answer").classList.toggle("compare", comparing);
  $("lists").replaceChildren(...answers.map((answer, i) =>
    list(answer, sizes(answer), state, comparing ? answer.model : null, comparing && i === 1 ? ranks[0] : null)));
  showBeams(comparing ? 1 : 0);
}

function showBeams(which) {
  const tabs = answers.length < 2 ? null : h("div", { class: "models" }, answers.map((answer, i) =>
    h("button", { type: "button", "aria-pressed": String(i === which), onclick: () => showBeams(i) }, answer.model)));
  beams.show($("beams"), answers[which], tabs);
  $("beams").dataset.model = answers[which].model;
  follow(null);
}

/** Pointing at a card or a prefix (or moving the focus to it) lights up its path; leaving puts it out. */
function follow(event) {
  const lists = [...document.querySelectorAll(".list")].filter((each) => each.dataset.model === $("beams").dataset.model);
  const element = event?.target.closest(".card, .node");
  const own = element && (element.matches(".node") || lists.includes(element.closest(".list")));
  beams.light($("beams"), own ? element.dataset.sid : null, lists, element?.matches(".node"));
}

function say(words) {
  $("banner").hidden = !words;
  $("banner").textContent = words ?? "";
}

$("search").addEventListener("submit", (event) => { event.preventDefault(); search(); });
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && !/^(INPUT|TEXTAREA)$/.test(document.activeElement.tagName)) { event.preventDefault(); $("query").select(); }
});
document.addEventListener("click", (event) => {
  const options = document.querySelector(".options");
  if (!options.contains(event.target)) options.open = false;
});
for (const type of ["mouseover", "focusin", "click"]) $("answer").addEventListener(type, follow);
$("answer").addEventListener("mouseleave", () => follow(null));
new ResizeObserver(() => beams.draw($("beams"))).observe($("beams"));
start();
