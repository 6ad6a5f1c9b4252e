// The page of the watch: every task's state, alarms, trends and estimated accuracy. It asks again every ten seconds.

import { byId, count, element, percent } from "./page.js";
import { ask, KEY } from "./server.js";

const SECONDS = 10;
const SHOWN = 60; // windows in a trend
const STATES = { waiting: "no window yet", ok: "like dev", suspicious: "one window is unlike dev", alarm: "alarm" };

const drawn = (name, properties) => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(properties)) made.setAttribute(key, String(value));
  return made;
};

/** Values as a line, and the usual one as a dashed line; the latest stands in the table beside it. */
function trend(values, usual) {
  const top = 1.1 * Math.max(...values, usual, 1e-9);
  const y = (value) => 28 * (1 - value / top) + 1;
  const step = 100 / Math.max(1, values.length - 1);
  const picture = drawn("svg", { class: "trend", viewBox: "0 0 100 30", preserveAspectRatio: "none", "aria-hidden": "true" });
  picture.append(drawn("line", { x1: 0, x2: 100, y1: y(usual), y2: y(usual) }));
  const points = values.length > 1 ? values : [values[0], values[0]];
  picture.append(drawn("polyline", { points: points.map((value, at) => `${at * (values.length > 1 ? step : 100)},${y(value)}`).join(" ") }));
  return picture;
}

function accuracy(task, latest) {
  if (!latest) return element("p", { class: "muted" }, "Its first window is not full yet.");
  const found = latest.estimate;
  const dev = task.reference.accuracy == null ? "" : ` On dev: ${percent(task.reference.accuracy)}.`;
  if (!found) return element("p", {}, element("strong", {}, "No estimated accuracy: "), `${latest.reason}.${dev}`);
  return element("p", {}, element("strong", {}, `Estimated ${found.metric}: ${percent(found.value)}`),
    ` (95\u202f%: ${percent(found.low)} to ${percent(found.high)}), of the latest ${count(found.texts, "text")}.${dev}`);
}

function row(signal, task, latest) {
  const windows = task.windows.slice(-SHOWN);
  const { effect, usual, p } = latest.signals[signal];
  return element("tr", { class: p <= task.limit ? "moved" : false },
    element("th", { scope: "row" }, signal),
    element("td", {}, effect.toPrecision(3)),
    element("td", {}, usual.toPrecision(3)),
    element("td", {}, p < 1e-4 ? "< 0.0001" : p.toFixed(4)),
    element("td", {}, trend(windows.map((window) => window.signals[signal].effect), usual)));
}

function section(name, task) {
  const latest = task.windows.at(-1);
  const heads = ["Signal", "Distance", "By chance", "p", `Last ${count(Math.min(SHOWN, task.windows.length), "window")}`];
  return element("section", { class: "card" },
    element("div", { class: "heading" }, element("h2", {}, name), element("span", { class: `state ${task.state}` }, STATES[task.state])),
    ...task.alarms.map((alarm) => element("div", { class: "error" }, element("p", {}, element("strong", {}, alarm.message)), element("p", {}, alarm.advice))),
    accuracy(task, latest),
    latest && element("div", { class: "wide" }, element("table", { class: "signals" },
      element("thead", {}, element("tr", {}, ...heads.map((head) => element("th", { scope: "col" }, head)))),
      element("tbody", {}, ...task.signals.map((signal) => row(signal, task, latest))))),
    element("p", { class: "muted" }, `${count(task.texts, "text")} seen, ${task.filling.toLocaleString("en")} in the window that fills; ${count(task.raised, "alarm")} so far.`));
}

async function show() {
  try {
    const found = await ask("v1/watch");
    byId("tasks").replaceChildren(...Object.entries(found.tasks).map(([name, task]) => section(name, task)));
    byId("unwatched").textContent = found.unwatched.length ? `Not watched, for too few labelled texts on dev: ${found.unwatched.join(", ")}.` : "";
    byId("progress").textContent = `Model ${found.digest.slice(0, 12)}; windows of ${count(found.window, "text")}.`;
    byId("error").replaceChildren();
  } catch (error) {
    byId("error").replaceChildren(element("p", { class: "error" }, error.message));
    if (error.status === 401) byId("key-panel").open = true;
  }
}

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, byId("key").value.trim());
  show();
});

await show();
setInterval(show, 1000 * SECONDS);
