// The start: what the server has, which view is shown, and the search that all views share.
import { $, h, count } from "./dom.js";
import { get, key, post } from "./api.js";
import * as beams from "./beams.js";
import { list } from "./cards.js";
import * as compare from "./compare.js";
import * as facets from "./facets.js";
import * as filter from "./filter.js";
import * as latency from "./latency.js";
import * as report from "./report.js";
import * as shelf from "./shelf.js";
import { actions, model, recall, remember, state, wholeFilter } from "./state.js";
import * as why from "./why.js";

const VIEWS = ["search", "compare", "shelf", "latency", "report"];
let view = "search";
let asked = 0; // number of the latest search, so that a late answer to an earlier one is dropped
let searched = false; // whether this page has searched at all
let expected = null; // an item to be explained after the next search

async function start() {
  for (;;) {
    try {
      state.info = await get("v1/info");
      break;
    } catch (error) {
      say(
        error.status === 401
          ? `${error.message}. Give it under Options.`
          : error.status
            ? `${error.message} …`
            : "The server does not answer; trying again …",
      );
    }
    await new Promise((done) => setTimeout(done, 1500));
  }
  say(null);
  const wanted = new URLSearchParams(location.search);
  const labels = state.info.models.map((one) => one.label);
  state.model = labels.includes(wanted.get("model")) ? wanted.get("model") : labels[0];
  recall(wanted);
  $("query").value = wanted.get("q") ?? "";
  filter.start();
  why.start(body);
  shelf.start();
  compare.start(() => search());
  $("narrow-down").open = !matchMedia("(max-width: 620px)").matches;
  beams.follow($("answer"), $("beams"));
  showModels(labels);
  showExamples();
  await openModel();
  if (wanted.has("q") || wholeFilter()) searched = true;
  await open();
}

/** Read what the filter line and the facets can offer of the model that answers. */
async function openModel() {
  const described = await get("v1/catalogue/columns", { model: state.model }).catch(() => null);
  state.columns = described?.columns ?? [];
  facets.start();
}

function showExamples() {
  $("examples").replaceChildren(
    ...state.info.examples.map((text) =>
      h(
        "button",
        {
          type: "button",
          onclick: () => {
            $("query").value = text;
            submit();
          },
        },
        text,
      ),
    ),
  );
}

function showModels(labels) {
  const one = model();
  $("facts").textContent =
    `${count(one.items)} products · ${count(one.sids)} IDs · codes ${one.codebook_sizes.join(" / ")}`;
  $("models").replaceChildren(
    ...(labels.length < 2
      ? []
      : labels.map((label) =>
          h(
            "button",
            {
              type: "button",
              "aria-pressed": String(label === state.model),
              onclick: async () => {
                state.model = label;
                showModels(labels);
                await openModel();
                open();
              },
            },
            label,
          ),
        )),
  );
}

/** Show the view that the address names, and fill it. */
async function open() {
  const [name, ...rest] = location.hash.slice(1).split("/");
  view = VIEWS.includes(name) ? name : "search";
  for (const each of VIEWS) {
    $(`view-${each}`).hidden = each !== view;
    const link = document.querySelector(`nav a[href="#${each}"]`);
    if (each === view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  $("search").hidden = !["search", "compare"].includes(view);
  document.title =
    view === "search" ? "Sidar" : `Sidar: ${$(`view-${view}`).querySelector("h1").textContent}`;
  if (view === "shelf") await shelf.show(rest.join("/"));
  if (view === "latency") latency.show();
  if (view === "report") report.show();
  if (view === "compare") await compare.load().catch((error) => say(error.message));
  if (expected != null && view === "search") searched = true;
  if (searched && ["search", "compare"].includes(view)) await search();
  if (expected == null || view !== "search") return;
  const item = expected;
  expected = null;
  await why.explain(item);
  $("why-box").scrollIntoView({ block: "center" });
}

/** The search as it is asked for on this page. */
function body() {
  return {
    query: $("query").value,
    k: Number($("k").value) || 10,
    beam: Number($("beam").value) || null,
    exact: $("exact").checked || null, // unchecked: as the bundle was made
    profile: $("profile").value,
    history: [...state.history.keys()],
    explain: true,
    fuse: $("alone").checked ? "none" : null,
    filter: wholeFilter() || null,
    model: state.model,
    facets: facets.counted(),
  };
}

async function submit() {
  searched = true;
  if (!["search", "compare"].includes(view)) {
    location.hash = "#search";
    return;
  }
  await search();
}

async function search() {
  if (!state.info) return;
  searched = true;
  const mine = ++asked;
  facets.chips();
  showHistory();
  busy(true);
  try {
    await answered(() => mine === asked);
  } catch (error) {
    if (mine === asked) failed(error);
  } finally {
    if (mine === asked) busy(false);
  }
}

/** Check the filter line, ask, and show the answer; `isLatest()`: nothing was asked since. */
async function answered(isLatest) {
  const ready = await filter.check();
  if (!isLatest()) return;
  if (!ready) {
    $("filter").focus();
    return;
  }
  if (view === "compare" && !compare.ready()) return;
  const asks = body();
  remember(asks.query);
  const began = performance.now();
  const answers =
    view === "compare" ? await compare.search(asks) : [await post("v1/search", asks)];
  const whole = performance.now() - began;
  if (!isLatest()) return;
  for (const answer of answers) latency.note(asks.query, answer.model, answer.timing_ms, whole);
  say(null);
  if (view !== "compare") await show(answers[0]);
}

function busy(is) {
  for (const id of ["answer", "compare-answer"]) $(id).setAttribute("aria-busy", String(is));
}

function failed(error) {
  if (error.message.startsWith("filter: ")) filter.wrong($("filter").value, error.message);
  else say(error.message);
}

async function show(answer) {
  $("intro").hidden = true;
  $("answer").hidden = false;
  why.clear();
  const jump = h(
    "button",
    { type: "button", class: "link", onclick: why.ask },
    "Expected another?",
  );
  $("list").replaceChildren(list(answer, model().codebook_sizes, null, () => null, jump));
  $("heard").textContent = `${answer.hits.length} items for ${answer.query || "no query"}`;
  beams.show($("beams"), answer, null);
  await facets.show(answer);
}

function showHistory() {
  $("history").hidden = state.history.size === 0;
  $("history").replaceChildren(
    "Touched before:",
    ...[...state.history].map(([id, title]) =>
      h(
        "button",
        {
          type: "button",
          title: "take out",
          "aria-label": `Take out of the history: ${title}`,
          onclick: () => {
            state.history.delete(id);
            search();
          },
        },
        h("span", {}, title),
        h("span", { "aria-hidden": "true" }, "×"),
      ),
    ),
  );
}

function say(words) {
  $("banner").hidden = !words;
  $("banner").textContent = words ?? "";
}

actions.search = search;
actions.why = (itemId) => {
  expected = itemId;
  $("expected").value = itemId;
  location.hash = "#search"; // the view opens, searches and explains
};
$("search").addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
$("key").value = key.get();
$("key").addEventListener("change", () => {
  key.set($("key").value.trim());
  open();
});
addEventListener("hashchange", open);
document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || /^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement.tagName)) return;
  event.preventDefault();
  if ($("search").hidden) location.hash = "#search";
  $("query").select();
});
document.addEventListener("click", (event) => {
  const options = document.querySelector(".options");
  if (!options.contains(event.target)) options.open = false;
});
start();
