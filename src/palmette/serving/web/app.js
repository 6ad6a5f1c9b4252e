// The form: what the model can do, what is asked, and where the answer goes.

import { drawAnswer } from "./answers.js";
import { byId, count, element } from "./page.js";
import { address, ask, KEY, Refusal } from "./server.js";
import { curl, python } from "./snippets.js";

const LONGEST_SHOWN = 6000; // characters of a snippet on the page; all are copied
const PASSAGE = "Maria Okafor moved from Lagos to Oslo in 2019, where she runs a bakery with her brother Tunde.";
const EXAMPLES = {
  single: [
    ["News", "Maria Okafor flew from Lagos to Oslo on Tuesday to meet engineers of Nordlys Energy, and the talks went well."],
    ["Review", "The film starts slowly, but Anna Lind is wonderful in it and the last half hour is a joy."],
    ["Emoji", "Off to Paris 🗼🇫🇷 with Zoë and Tom 👩‍👩‍👧 – best holiday ever! 😍"],
    ["العربية", "سافرت ليلى حداد من القاهرة إلى لندن لتعمل في شركة BBC."],
  ],
  paired: [
    ["Question", "Where did Maria move to?", PASSAGE],
    ["No answer", "Who won the match?", PASSAGE],
    ["Similar", "A man is playing a guitar on stage.", "Someone on a stage plays an instrument."],
    ["Different", "A man is playing a guitar on stage.", "The recipe needs two eggs and some flour."],
  ],
};

const state = {
  tasks: {}, // as GET /v1/tasks
  off: new Set(), // those that are not wanted
  digest: null,
  running: null, // AbortController of the request under way
};

// The model ----------------------------------------------------------------------------------------------------------

async function loadModel() {
  say("Loading the tasks …");
  try {
    const [{ tasks }, model] = await Promise.all([ask("v1/tasks"), ask("v1/model")]);
    for (const [task, { by_writer: apart }] of Object.entries(tasks)) {
      if (apart && !(task in state.tasks)) state.off.add(task); // slow: only for those who want it
    }
    state.tasks = tasks;
    showModel(model);
    showTasks();
    clearError();
    byId("predict").disabled = false;
    say("");
    if (!byId("answer").firstChild) {
      byId("answer").append(element("p", { class: "empty" }, "Type or paste a text, or try an example, and press Predict."));
    }
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    say("");
    showError(error, element("button", { type: "button", class: "quiet", onclick: loadModel }, "Try again"));
  }
}

function showModel({ manifest, digest, card }) {
  state.digest = digest;
  const made = manifest.created ? new Date(manifest.created) : null;
  byId("model").replaceChildren(
    "Model ",
    element("code", { title: digest }, digest.slice(0, 12)),
    ` · ${count(Object.keys(state.tasks).length, "task")}`,
    made && !Number.isNaN(made.valueOf()) ? ` · made on ${made.toLocaleDateString("en-GB", { dateStyle: "long" })}` : "",
  );
  byId("card-panel").hidden = !card;
  byId("card").textContent = card ?? "";
}

// The form -----------------------------------------------------------------------------------------------------------

const shape = () => document.querySelector("input[name=shape]:checked").value;

/** Whether a task takes such an input; one that does not say takes what its kind does. */
function takes({ inputs, paired }, wanted) {
  if (typeof paired === "boolean") return paired === (wanted === "paired");
  return inputs === "any" || inputs === (wanted === "paired" ? "pair" : "text");
}

const fitting = () => Object.keys(state.tasks).filter((task) => takes(state.tasks[task], shape()));
const chosen = () => fitting().filter((task) => !state.off.has(task));
const byWriter = (task) => state.tasks[task].by_writer === true; // tasks of two models are two requests

/** The form for the tasks that this model has. */
function showTasks() {
  const possible = ["single", "paired"].filter((wanted) => Object.values(state.tasks).some((about) => takes(about, wanted)));
  byId("shapes").hidden = possible.length < 2;
  if (possible.length && !possible.includes(shape())) document.querySelector(`input[value=${possible[0]}]`).checked = true;
  byId("paired-name").textContent = Object.values(state.tasks).some(({ kind }) => kind === "extractive_qa") ? "Pair or question" : "Two texts";
  showShape();
}

function showShape() {
  const paired = shape() === "paired";
  byId("pair-field").hidden = !paired;
  byId("text").rows = paired ? 3 : 6;
  byId("tasks").hidden = false;
  byId("task-list").replaceChildren(...fitting().map(drawChoice));
  byId("examples").replaceChildren(...EXAMPLES[shape()].map(drawExample));
  showChoice();
}

function drawChoice(task) {
  const change = (event) => {
    if (event.target.checked) {
      for (const other of Object.keys(state.tasks)) if (byWriter(other) !== byWriter(task)) state.off.add(other);
      state.off.delete(task);
    } else state.off.add(task);
    showBoxes();
  };
  const box = element("input", { type: "checkbox", value: task, checked: !state.off.has(task), onchange: change });
  return element("label", { class: "check" }, box, element("span", {}, element("bdi", {}, task), " ", element("small", {}, state.tasks[task].kind.replaceAll("_", " "))));
}

function showBoxes() {
  for (const box of byId("task-list").querySelectorAll("input")) box.checked = !state.off.has(box.value);
  showChoice();
}

function drawExample([name, text, pair]) {
  const use = () => {
    byId("text").value = text;
    byId("pair").value = pair ?? "";
    clearError();
    showSnippets();
    byId("text").focus({ preventScroll: true });
  };
  return element("button", { type: "button", class: "quiet", onclick: use }, element("bdi", {}, name));
}

/** What follows from the choice of tasks: names of the fields, the button of all, the request. */
function showChoice() {
  const kinds = chosen().map((task) => state.tasks[task].kind);
  const questions = kinds.filter((kind) => kind === "extractive_qa").length;
  const names = !questions
    ? ["First text", "Second text"]
    : questions === kinds.length
      ? ["Question", "Passage"]
      : ["First text, or question", "Second text, or passage"];
  byId("text-label").textContent = shape() === "paired" ? names[0] : "Text";
  byId("pair-label").textContent = names[1];
  byId("all").textContent = kinds.length ? "None" : "All";
  byId("all").hidden = fitting().length < 2;
  showSnippets();
}

/** The body of the request: no more in it than needed, since it is also shown to be copied. */
function body() {
  const text = byId("text").value;
  const wanted = chosen();
  return {
    texts: [shape() === "paired" ? { text, text_pair: byId("pair").value } : text],
    ...((wanted.length < fitting().length || wanted.some(byWriter)) && { tasks: wanted }),
    ...(byId("explain").checked && { explain: true }),
  };
}

function snippet(write) {
  return write(address("v1/predict"), body(), Boolean(sessionStorage.getItem(KEY)));
}

function showSnippets() {
  for (const [name, write] of [["curl", curl], ["python", python]]) {
    const code = snippet(write);
    byId(name).textContent = code.length > LONGEST_SHOWN ? `${code.slice(0, LONGEST_SHOWN)} …\n\n(too long to show; Copy takes all of it)` : code;
  }
}

async function copy(button, code) {
  if (navigator.clipboard) await navigator.clipboard.writeText(code);
  else copyByHand(code);
  button.textContent = "Copied";
  byId("copied").textContent = "Copied";
  setTimeout(() => {
    button.textContent = "Copy";
    byId("copied").textContent = "";
  }, 2000);
}

/** Browsers have no `navigator.clipboard` where a page comes over plain HTTP from another machine. */
function copyByHand(code) {
  const had = document.activeElement;
  const box = element("textarea", { class: "hidden", "aria-hidden": "true" });
  box.value = code;
  document.body.append(box);
  box.select();
  document.execCommand("copy");
  box.remove();
  had.focus();
}

// Errors -------------------------------------------------------------------------------------------------------------

/** Where a field of the request stands in the form. */
function place(field) {
  if (!field) return null;
  if (field.startsWith("tasks")) return byId("tasks");
  if (field.startsWith("explain")) return byId("explain-field");
  if (field.includes("text_pair")) return byId("pair");
  return field.startsWith("texts") ? byId("text") : null;
}

function showError({ message, code, field, request, status, wait }, more) {
  clearError();
  const facts = [field && ["Field", field], code && ["Code", code], request && ["Request", request]].filter(Boolean);
  const box = element(
    "div",
    { class: "error" },
    element("p", {}, element("strong", {}, message), wait ? ` Try again in ${wait}\u202fs.` : ""),
    facts.length ? element("dl", {}, facts.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, element("code", {}, value))))) : null,
    more,
  );
  byId("error").replaceChildren(box);
  const wrong = place(field);
  if (wrong) {
    wrong.classList.add("wrong");
    if (wrong.matches("textarea")) wrong.setAttribute("aria-invalid", "true");
    wrong.setAttribute("aria-describedby", "error");
  }
  if (status === 401) {
    byId("key-panel").open = true;
    byId("key").focus();
  }
}

function clearError() {
  byId("error").replaceChildren();
  for (const wrong of document.querySelectorAll(".wrong")) {
    wrong.classList.remove("wrong");
    wrong.removeAttribute("aria-invalid");
    wrong.removeAttribute("aria-describedby");
  }
}

const say = (text) => byId("status").replaceChildren(...[text].flat());

// Predicting ---------------------------------------------------------------------------------------------------------

function unanswerable() {
  if (!chosen().length) return new Refusal("Pick at least one task.", { field: "tasks" });
  if (!byId("text").value) return new Refusal("There is no text yet.", { field: "texts[0]" });
  if (shape() === "paired" && !byId("pair").value) return new Refusal("There is no second text yet.", { field: "texts[0].text_pair" });
  return null;
}

async function predict() {
  if (byId("predict").disabled && !state.running) return; // no tasks yet
  state.running?.abort();
  const wrong = unanswerable();
  if (wrong) {
    showError(wrong);
    return;
  }
  clearError();
  const running = new AbortController();
  const asked = body();
  const begun = performance.now();
  busy(running);
  say("Computing …");
  try {
    const found = await ask("v1/predict", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(asked),
      signal: running.signal,
    });
    await showAnswer(found, asked, performance.now() - begun);
  } catch (error) {
    if (error.name === "AbortError") {
      if (state.running === running) say("Stopped.");
    } else if (error instanceof Refusal) {
      say("");
      showError(error);
    } else throw error;
  } finally {
    if (state.running === running) busy(null);
  }
}

function busy(running) {
  state.running = running;
  byId("stop").hidden = !running;
  byId("results").setAttribute("aria-busy", String(Boolean(running)));
  byId("predict").textContent = running ? "Computing …" : "Predict";
}

async function showAnswer(found, asked, elapsed) {
  // The server has taken another model since: its tasks may be others.
  if (found.model.digest !== state.digest) await loadModel();
  const [answer] = found.answers;
  byId("answer").replaceChildren(...drawAnswer(answer, state.tasks, { explain: asked.explain === true }));
  byId("answer").prepend(drawTiming(found, elapsed));
  say(`${count(Object.keys(answer.tasks).length, "task")} over ${answer.text_pair == null ? count(answer.words.length, "word") : "two texts"} in ${milliseconds(found.milliseconds.total)}`);
  const { top } = byId("results").getBoundingClientRect();
  if (top > 0.7 * window.innerHeight) byId("results").scrollIntoView({ block: "start" });
}

const milliseconds = (time) => `${time < 10 ? time.toFixed(1) : Math.round(time).toLocaleString("en")}\u202fms`;

function drawTiming({ milliseconds: times, model, request_id: request }, elapsed) {
  const facts = [
    ["Queue", milliseconds(times.queue)],
    ["Computing", milliseconds(times.compute)],
    ["Server", milliseconds(times.total)],
    ["With network", milliseconds(elapsed)],
    ["Model", element("code", { title: model.digest }, model.digest.slice(0, 12))],
    ["Request", element("code", {}, request)],
  ];
  return element("dl", { class: "facts" }, facts.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))));
}

// Events -------------------------------------------------------------------------------------------------------------

byId("form").addEventListener("submit", (event) => {
  event.preventDefault();
  predict();
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || event.repeat) return;
  event.preventDefault();
  predict();
});
byId("stop").addEventListener("click", () => state.running?.abort());
for (const radio of document.querySelectorAll("input[name=shape]")) radio.addEventListener("change", showShape);
byId("all").addEventListener("click", () => {
  const some = chosen().length > 0;
  const apart = fitting().every(byWriter);
  for (const task of fitting()) {
    if (some || byWriter(task) !== apart) state.off.add(task);
    else state.off.delete(task);
  }
  showBoxes();
});
byId("explain").addEventListener("change", showSnippets);
let later;
for (const name of ["text", "pair"]) {
  byId(name).addEventListener("input", () => {
    clearTimeout(later);
    later = setTimeout(showSnippets, 150); // a long text is not written out anew at each key
  });
}
byId("copy-curl").addEventListener("click", (event) => copy(event.currentTarget, snippet(curl)));
byId("copy-python").addEventListener("click", (event) => copy(event.currentTarget, snippet(python)));
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const key = byId("key").value.trim();
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
  byId("key-panel").open = false;
  showSnippets();
  loadModel();
});
byId("key").value = sessionStorage.getItem(KEY) ?? "";
if (navigator.platform.startsWith("Mac")) byId("keys").firstChild.textContent = "⌘";
loadModel();
