// The review page: one answer after another, checked with the keyboard. The server keeps everything; this page keeps
// the reviewer's name, and what may be taken back.

import { editorFor, same } from "./review_editors.js";
import { bar, byId, count, element, percent } from "./page.js";
import { ask, KEY, Refusal } from "./server.js";

const NAME = "palmette-reviewer";
const WHY = {
  low_confidence: "here for its low confidence",
  unreadable: "here since nobody can read what the model wrote",
  disagreement: "here since another model says something else",
  audit: "here by chance: the audit",
  reported: "reported by somebody",
};

const state = {
  tasks: {}, // as GET v1/review/tasks
  item: null,
  editor: null,
  said: [], // ids of the items that were decided here, the last one last
  busy: false,
};

const reviewer = () => byId("reviewer").value.trim();
const post = (path, body) => ask(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

// Items --------------------------------------------------------------------------------------------------------------

/** One thing at a time: a key that is pressed twice must not decide twice. */
async function alone(work) {
  if (state.busy) return;
  state.busy = true;
  document.body.setAttribute("aria-busy", "true");
  try {
    await work();
    byId("error").replaceChildren();
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    showError(error);
  } finally {
    state.busy = false;
    document.body.removeAttribute("aria-busy");
  }
}

function showError({ message, code, status }) {
  const missing = status === 404 && code === "not_found" && !state.item;
  const hint = missing ? " This server keeps no reviews, or an older one answers: start it with --set store=FILE." : "";
  byId("error").replaceChildren(element("p", { class: "error" }, element("strong", {}, "Not done. "), message + hint));
  if (status === 401) byId("key-panel").open = true;
}

async function begin() {
  const about = await ask("v1/review/tasks");
  state.tasks = about.tasks;
  const chosen = byId("task").value;
  const options = Object.entries(about.tasks).map(([task, { waiting }]) => element("option", { value: task }, `${task} (${waiting})`));
  byId("task").replaceChildren(element("option", { value: "" }, "All tasks"), ...options);
  byId("task").value = chosen in about.tasks ? chosen : "";
  if (reviewer()) await next();
}

async function next() {
  const query = new URLSearchParams({ reviewer: reviewer() });
  if (byId("task").value) query.set("task", byId("task").value);
  const { item, waiting } = await ask(`v1/review/next?${query}`);
  byId("progress").textContent = `${count(waiting, "item")} waiting · ${state.said.length} checked by you now`;
  show(item);
  measure();
}

function show(item) {
  state.item = item;
  byId("item").hidden = !item;
  byId("empty").hidden = Boolean(item);
  byId("undo").disabled = !state.said.length;
  if (!item) {
    byId("empty").textContent = "Nothing waits for you. New answers come when the model is unsure of them.";
    return;
  }
  byId("item-title").replaceChildren(element("bdi", {}, item.task), " ", element("span", { class: "kind" }, item.kind.replaceAll("_", " ")));
  byId("why").textContent = WHY[item.why] ?? item.why;
  state.editor = editorFor(item, byId("editor"), byId("palette"), changed);
  byId("facts").replaceChildren(...facts(item));
  changed();
  state.editor.focus();
}

function facts({ confidence, candidate, digest, request_id: request, number, text }) {
  const sure = confidence === null ? "none" : [bar(confidence), " ", percent(confidence)];
  const found = [
    ["Confidence", element("span", { class: "certainty" }, sure)],
    candidate === null ? null : ["The other model", JSON.stringify(candidate)],
    ["Model", element("code", { title: digest }, digest.slice(0, 12))],
    ["Request", element("code", {}, `${request} · ${number}`)],
    text === null ? ["Text", "not kept"] : null,
  ];
  return found.filter(Boolean).map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value)));
}

/** What the button says: that the answer is right, or how it was changed. */
function changed() {
  const { item, editor } = state;
  const corrected = !same(editor.label(), item.prediction);
  byId("accept").textContent = corrected ? "Send correction" : "Accept";
  byId("accept").disabled = editor.label() === null;
  byId("reset").disabled = !corrected;
  byId("changes").textContent = editor.label() !== null ? editor.note() : item.text !== null ? "Say what is right." : "The text is not kept, so this answer cannot be judged here: skip it, or look it up by its request.";
}

async function decide(verdict, label) {
  const { item } = state;
  const body = { reviewer: reviewer(), verdict };
  if (label !== undefined) body.label = label;
  await post(`v1/review/items/${item.id}/decisions`, body);
  state.said.push(item.id);
  await next();
}

const accept = () =>
  alone(async () => {
    const label = state.editor?.label() ?? null;
    if (!state.item || label === null) return;
    if (same(label, state.item.prediction)) await decide("right");
    else await decide("corrected", label);
  });

const skip = () => alone(async () => state.item && (await decide("skipped")));

/** Take the last decision back, and show its item again. */
const undo = () =>
  alone(async () => {
    const last = state.said.at(-1);
    if (last === undefined) return;
    await post(`v1/review/items/${last}/decisions`, { reviewer: reviewer(), verdict: "withdrawn" });
    state.said.pop();
    const item = await ask(`v1/review/items/${last}`);
    show(item);
    byId("progress").textContent = `taken back · ${state.said.length} checked by you now`;
  });

// Measures -----------------------------------------------------------------------------------------------------------

async function measure() {
  try {
    if (byId("cleanup-panel").open) byId("cleanup").replaceChildren(cleanup((await ask("v1/review/cleanup")).versions));
    if (byId("agreement-panel").open) byId("agreement").replaceChildren(agreement((await ask("v1/review/agreement")).pairs));
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    showError(error);
  }
}

function table(head, rows, empty) {
  if (!rows.length) return element("p", { class: "none" }, empty);
  const cells = (row) => element("tr", {}, row.map((cell, place) => element("td", { class: place ? "number" : null }, cell)));
  return element("table", {}, element("thead", {}, element("tr", {}, head.map((name) => element("th", { scope: "col" }, name)))), element("tbody", {}, rows.map(cells)));
}

function cleanup(versions) {
  const rows = versions.map((found) => [
    element("bdi", {}, found.task),
    element("code", { title: found.digest }, found.digest.slice(0, 12)),
    found.answers.toLocaleString("en"),
    found.corrected.toLocaleString("en"),
    found.rate === null ? "–" : percent(found.rate),
    found.units ? `${found.changed} of ${found.units} (${percent(found.changed / found.units)})` : "–",
    found.estimate ? `${percent(found.estimate[1])} (${percent(found.estimate[0])} to ${percent(found.estimate[2])}; ${found.audited} checked)` : "–",
  ]);
  return table(["Task", "Model", "Answers", "Corrected", "Rate", "Units changed", "Wrong, by the audit"], rows, "No answers yet.");
}

function agreement(pairs) {
  const rows = pairs.map((found) => [
    element("bdi", {}, found.task),
    element("bdi", {}, found.reviewers.join(" and ")),
    String(found.items),
    String(found.units),
    percent(found.agreed),
    found.kappa === null ? "not defined" : found.kappa.toFixed(2).replace("-", "−"),
  ]);
  return table(["Task", "Reviewers", "Items", "Units", "Agreed", "Kappa"], rows, "No item has been judged by two people yet.");
}

// Events -------------------------------------------------------------------------------------------------------------

byId("who").addEventListener("submit", (event) => {
  event.preventDefault();
  localStorage.setItem(NAME, reviewer());
  if (reviewer()) alone(begin);
  else byId("reviewer").focus();
});
byId("task").addEventListener("change", () => reviewer() && alone(next));
byId("accept").addEventListener("click", accept);
byId("skip").addEventListener("click", skip);
byId("undo").addEventListener("click", undo);
byId("reset").addEventListener("click", () => state.editor?.reset());
for (const name of ["cleanup-panel", "agreement-panel"]) byId(name).addEventListener("toggle", measure);
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const key = byId("key").value.trim();
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
  byId("key-panel").open = false;
  alone(begin);
});

document.addEventListener("keydown", (event) => {
  const place = event.target.closest("input, textarea, select, summary, a, header, #who, .measures");
  const writing = event.target.closest("#editor") && place;
  if (!state.item || (place && !writing)) return;
  if (writing && !(event.key === "Escape" || (event.key === "Enter" && (place.tagName === "INPUT" || event.ctrlKey || event.metaKey)))) return;
  const plain = !event.ctrlKey && !event.metaKey && !event.altKey;
  const onButton = event.target.closest("button") && !event.target.closest("#editor");
  if (event.key === "Enter" && !(onButton && event.target.id !== "accept")) accept();
  else if (event.key.toLowerCase() === "z" && (event.ctrlKey || event.metaKey)) undo();
  else if (event.key === "Escape") state.editor.reset();
  else if (plain && event.key === ".") skip();
  else if (!(plain && state.editor.key(event))) return;
  event.preventDefault();
});

byId("reviewer").value = localStorage.getItem(NAME) ?? "";
byId("key").value = sessionStorage.getItem(KEY) ?? "";
alone(begin);
if (!reviewer()) byId("reviewer").focus();
