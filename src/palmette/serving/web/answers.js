// An answer of the API -> elements. What a task's answer looks like is told by its form, so kinds of other packages that
// answer in a known form are drawn too; all others are shown as JSON.

import { drawExplanations, explanationsOf } from "./explanations.js";
import { Text } from "./offsets.js";
import { bar, count, element, paged, percent } from "./page.js";

const COLOURS = 8; // .c0 … .c7 in app.css
const SURE = 0.9; // below it a tag's confidence is written under the tag
const INVISIBLE = /^[\p{Cc}\p{Cf}\p{Z}\ufe00-\ufe0f]+$/u; // joiners of emoji, marks of direction
const COMMON = ["explanation", "explanations", "decision", "decisions", "readable", "truncated"];

const isText = (value) => typeof value === "string";
const isNumber = (value) => typeof value === "number";
const isTexts = (value) => Array.isArray(value) && value.every(isText);
const isSpan = (value) => value && isText(value.label) && isNumber(value.start) && isNumber(value.end);

// In this order: an answer with spans has tags, too.
const FORMS = [
  { name: "spans", keys: ["tags", "spans"], fits: (found) => Array.isArray(found.spans) && found.spans.every(isSpan), draw: drawSpans },
  { name: "tags", keys: ["tags", "confidence"], fits: (found, { words }) => isTexts(found.tags) && found.tags.length === words.length, draw: drawTags },
  { name: "labels", keys: ["labels", "confidence"], fits: (found) => isTexts(found.labels), draw: drawLabels },
  { name: "label", keys: ["label", "confidence"], fits: (found) => isText(found.label), draw: drawLabel },
  { name: "value", keys: ["value"], fits: (found) => isNumber(found.value), draw: drawValue },
  { name: "answer", keys: ["answer", "start", "end", "confidence"], fits: (found, { pair }) => pair && (found.answer === null || (isText(found.answer) && isNumber(found.start) && isNumber(found.end))), draw: drawPassage },
];

/** Every task of an answer, a section each. */
export function drawAnswer(answer, tasks, { explain }) {
  const of = {
    text: new Text(answer.text),
    pair: answer.text_pair == null ? null : new Text(answer.text_pair),
    words: answer.words,
    offsets: answer.offsets,
    pairOffsets: answer.pair_offsets ?? null,
  };
  const sections = Object.entries(answer.tasks).map(([task, found]) => drawTask(task, found, tasks[task], of, explain));
  if (!sections.length) sections.push(element("p", { class: "empty" }, "None of the tasks takes such an input."));
  return [...sections, drawJson(answer)];
}

function drawTask(task, found, about, of, explain) {
  const form = FORMS.find(({ fits }) => found && fits(found, of));
  const known = [...(form?.keys ?? []), ...COMMON];
  const rest = form ? Object.fromEntries(Object.entries(found).filter(([key]) => !known.includes(key))) : found;
  const heading = element("h3", {}, element("bdi", {}, task), about && element("span", { class: "kind" }, about.kind.replaceAll("_", " ")), decided(found));
  const section = element("section", { class: "card task", "data-task": task, "data-form": form?.name ?? "json", "aria-label": task }, heading);
  if (form) section.append(...form.draw(found, of, about));
  if (found?.truncated) section.append(element("p", { class: "note" }, "The text was too long: a part of it was not read."));
  if (found?.readable === false) section.append(element("p", { class: "note" }, "Not all of what the model wrote could be read."));
  if (!form || Object.keys(rest).length) section.append(scrolling("pre", `${task} as JSON`, JSON.stringify(rest, null, 2)));
  if (explain && form) {
    const explanations = explanationsOf(found);
    section.append(
      ...(explanations.length
        ? drawExplanations(explanations, of)
        : [element("p", { class: "note" }, "This answer has no explanation.")]),
    );
  }
  return section;
}

/** What becomes of an answer, where a threshold was set (palmette calibrate). */
function decided(found) {
  if (!isText(found?.decision)) return null;
  return element("span", { class: `decision ${found.decision === "review" ? "review" : ""}` }, found.decision === "review" ? "to be reviewed" : found.decision);
}

function scrolling(name, label, ...children) {
  return element(name, { class: "scroll", tabindex: "0", role: "region", "aria-label": label, dir: "auto" }, ...children);
}

// Spans --------------------------------------------------------------------------------------------------------------

function drawSpans({ spans }, { text }, about) {
  if (!spans.length) return [element("p", { class: "none" }, "Nothing found.")];
  const colours = colouring(spans, about);
  const lines = layers(spans).flatMap((layer) => {
    let at = 0;
    const draw = (span) => {
      const before = text.slice(at, span.start);
      at = span.end;
      return [before, mark(text.slice(span.start, span.end), colours.get(span.label), span)];
    };
    const box = scrolling("div", "Text with spans");
    box.classList.add("running");
    return paged(box, layer, "span", draw, { rest: () => [text.slice(at)] });
  });
  return [...lines, drawSpanTable(spans, colours)];
}

function mark(text, colour, { label, confidence, start, end, decision }) {
  const title = [label, isNumber(confidence) && percent(confidence), decision === "review" && "to be reviewed"].filter(Boolean).join(", ");
  const name = element("b", { class: "label", dir: "auto" }, label);
  return element("mark", { class: `c${colour}${decision === "review" ? " unsure" : ""}`, title, "data-start": start, "data-end": end }, element("span", { class: "marked" }, text), name);
}

/** Each label's colour: by its place among the labels of the task, so that it is the same in every text. */
function colouring(spans, about) {
  const labels = new Set((about?.labels ?? []).map((label) => label.replace(/^[BIES]-/, "")).filter((label) => label !== "O"));
  for (const { label } of spans) labels.add(label);
  return new Map([...labels].map((label, number) => [label, number % COLOURS]));
}

/** Spans that overlap are drawn on lines of their own. */
function layers(spans) {
  const found = [];
  for (const span of [...spans].sort((a, b) => a.start - b.start || b.end - a.end)) {
    const free = found.find((layer) => layer.at(-1).end <= span.start);
    if (free) free.push(span);
    else found.push([span]);
  }
  return found;
}

function drawSpanTable(spans, colours) {
  const body = element("tbody");
  const head = ["Label", "Text", "Characters", "Confidence"].map((name) => element("th", { scope: "col" }, name));
  const table = element("table", {}, element("thead", {}, element("tr", {}, head)), body);
  const draw = ({ label, text, start, end, confidence }) =>
    element(
      "tr",
      {},
      element("td", {}, element("b", { class: `label c${colours.get(label)}`, dir: "auto" }, label)),
      element("td", { class: "wide", dir: "auto" }, text ?? ""),
      element("td", { class: "number" }, `${start}\u2013${end}`),
      element("td", { class: "number" }, isNumber(confidence) ? percent(confidence) : "\u2013"),
    );
  const more = paged(body, spans, "span", draw, { size: 100 }).slice(1);
  return element("details", {}, element("summary", {}, count(spans.length, "span")), element("div", { class: "scroll-x" }, table), more);
}

// Tags ---------------------------------------------------------------------------------------------------------------

function drawTags({ tags, confidence, decisions }, { text, words, offsets }) {
  if (!words.length) return [element("p", { class: "none" }, "The text has no words.")];
  const list = element("ul", { class: "interlinear", dir: "auto" });
  const draw = (tag, number) => {
    const sure = Array.isArray(confidence) ? confidence[number] : null;
    const item = element(
      "li",
      { class: decisions?.[number] === "review" ? "unsure" : null, title: isNumber(sure) ? `${tag}, ${percent(sure)}` : null },
      element("span", { class: "word", "data-code": codes(words[number]) }, words[number]),
      element("span", { class: "tag", dir: "ltr" }, tag),
      isNumber(sure) && sure < SURE ? element("span", { class: "doubt", dir: "ltr" }, `${Math.floor(100 * sure)}\u202f%`) : null,
    );
    const newLine = number > 0 && text.slice(offsets[number - 1][1], offsets[number][0]).includes("\n");
    return newLine ? [element("li", { class: "break", "aria-hidden": "true" }), item] : item;
  };
  const note = Array.isArray(confidence)
    ? element("p", { class: "note" }, `Confidence is written where it is below ${Math.round(100 * SURE)}\u202f%.`)
    : null;
  return [...paged(list, tags, "word", draw), note].filter(Boolean);
}

/** Names for a word that nobody would see. */
function codes(word) {
  if (!INVISIBLE.test(word)) return null;
  return [...word].map((point) => `U+${point.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`).join(" ");
}

// One answer for a text ----------------------------------------------------------------------------------------------

function drawLabel({ label, confidence }, of, about) {
  const others = (about?.labels ?? []).filter((other) => other !== label);
  return [
    element("p", { class: "verdict" }, element("b", { class: "class", dir: "auto" }, label), certainty(confidence)),
    others.length ? element("p", { class: "note" }, `Other labels: ${listed(others)}`) : null,
  ].filter(Boolean);
}

function drawLabels({ labels, confidence }, of, about) {
  const chips = labels.map((label) => element("li", { class: "chip", dir: "auto" }, label));
  const others = (about?.labels ?? []).filter((label) => !labels.includes(label));
  return [
    element(
      "div",
      { class: "verdict" },
      labels.length ? element("ul", { class: "chips" }, chips) : element("b", { class: "class none" }, "none"),
      certainty(confidence),
    ),
    others.length ? element("p", { class: "note" }, `Other labels: ${listed(others)}`) : null,
  ].filter(Boolean);
}

function drawValue({ value }) {
  return [element("p", { class: "verdict" }, element("b", { class: "value" }, String(value).replace("-", "\u2212")))];
}

function drawPassage({ answer, start, end, confidence }, { pair }) {
  const said = answer === null ? element("b", { class: "class none" }, "no answer") : element("b", { class: "class", dir: "auto" }, answer);
  const box = scrolling("div", "Passage");
  box.classList.add("running");
  if (answer === null) box.append(pair.string);
  else {
    const found = element("mark", { class: "c2", "data-start": start, "data-end": end }, element("span", { class: "marked" }, pair.slice(start, end)));
    box.append(pair.slice(0, start), found, pair.slice(end));
    // In a long passage the answer is scrolled into the box's view, once that has a height.
    requestAnimationFrame(() => (box.scrollTop = found.offsetTop - box.offsetTop - box.clientHeight / 3));
  }
  return [element("p", { class: "verdict" }, said, certainty(confidence)), box];
}

function certainty(confidence) {
  if (!isNumber(confidence)) return null;
  return element("span", { class: "certainty" }, bar(confidence), element("span", { class: "number" }, percent(confidence)));
}

function listed(labels) {
  const shown = labels.slice(0, 12);
  if (labels.length > shown.length) return `${shown.join(", ")} and ${(labels.length - shown.length).toLocaleString("en")} more`;
  return shown.join(", ");
}

// All of it ----------------------------------------------------------------------------------------------------------

const MOST = 200_000; // characters of JSON on the page

function drawJson(answer) {
  const box = scrolling("pre", "Answer as JSON");
  const fill = () => {
    if (!details.open || box.firstChild) return;
    const json = JSON.stringify(answer, null, 2);
    box.append(json.length > MOST ? `${json.slice(0, MOST)}\n… ${count(json.length - MOST, "more character")}` : json);
  };
  const details = element("details", { class: "raw", ontoggle: fill }, element("summary", {}, "Answer as JSON"), box);
  return details;
}
