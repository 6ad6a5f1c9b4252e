// Which words carried an answer: the text again, each word shaded by its score.

import { count, element, paged, signed } from "./page.js";

const CLAIMS = 10; // explanations of one task that are drawn at once
const LEADING = 5; // words that are written out with their numbers

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

/**
 * The explanations of a task's answer, each {name, words, pairWords, together}; scores by word.
 *
 * One of the whole answer (`explanation`), of each span, of each member of a set (`explanations`), or a list of them.
 */
export function explanationsOf(found) {
  const claims = (found.spans ?? found.labels ?? []).map((claim) => (isObject(claim) ? spanName(claim) : String(claim)));
  const own = found.explanation;
  const several = Array.isArray(own) && own.some((one) => isObject(one) && "words" in one);
  const named = several ? own.map((one, number) => [claims[number] ?? String(number + 1), one]) : [["", own]];
  for (const span of found.spans ?? []) named.push([spanName(span), span.explanation]);
  named.push(...Object.entries(found.explanations ?? {}));
  return named.map(([name, one]) => read(name, one)).filter(Boolean);
}

const spanName = ({ label, text }) => (text ? `${label}: ${text}` : label);

function read(name, one) {
  const words = scores(Array.isArray(one) ? one : one?.words);
  return words && { name, words, pairWords: scores(one.pair_words), together: one.together ?? 1 };
}

/** Numbers in the order of the words, from such a list or from one of {word, score}. */
function scores(list) {
  if (!Array.isArray(list) || !list.length) return null;
  if (list.every((score) => typeof score === "number")) return list;
  if (!list.every((one) => isObject(one) && typeof one.score === "number")) return null;
  const found = [];
  for (const { word, score } of list) found[word] = score;
  return Array.from(found, (score) => score ?? 0);
}

/** An explanation each, folded where there are many. */
export function drawExplanations(explanations, of) {
  const box = element("div", { class: "explanations" });
  const parts = paged(box, explanations, "explanation", (one) => drawExplanation(one, of), { size: CLAIMS });
  return [
    element("details", { class: "why", open: explanations.length === 1 }, element("summary", {}, explanations.length === 1 ? "Why" : `Why: ${count(explanations.length, "explanation")}`), parts),
  ];
}

function drawExplanation({ name, words, pairWords, together }, { text, words: strings, offsets, pair, pairOffsets }) {
  const scale = [...words, ...(pairWords ?? [])].reduce((most, score) => Math.max(most, Math.abs(score)), 0);
  const named = strings.map((word, number) => [word, words[number] ?? 0]);
  if (pair && pairOffsets && pairWords) named.push(...pairOffsets.map(([start, end], number) => [pair.slice(start, end), pairWords[number] ?? 0]));
  return element(
    "div",
    { class: "explanation", "data-name": name },
    name && element("h4", { dir: "auto" }, name),
    drawLeading(named),
    shaded(text, offsets, words, scale),
    pair && pairOffsets && pairWords ? shaded(pair, pairOffsets, pairWords, scale) : null,
    together > 1 ? element("p", { class: "note" }, `${together} neighbouring words at a time share their score.`) : null,
  );
}

/** The words that count most, with their numbers: what the shades say, for those who do not see them. */
function drawLeading(named) {
  const leading = named
    .filter(([, score]) => score !== 0)
    .sort(([, a], [, b]) => Math.abs(b) - Math.abs(a))
    .slice(0, LEADING);
  if (!leading.length) return element("p", { class: "note" }, "No single word decided.");
  return element(
    "ul",
    { class: "leading" },
    leading.map(([word, score]) => element("li", { class: score < 0 ? "against" : "for" }, element("bdi", {}, word), " ", element("span", { class: "number" }, signed(score)))),
  );
}

function shaded(text, offsets, scores, scale) {
  const box = element("div", { class: "running scroll shaded", dir: "auto", tabindex: "0", role: "region", "aria-label": "Words by their score" });
  let at = 0;
  const draw = ([start, end], number) => {
    const before = text.slice(at, start);
    at = end;
    const score = scores[number] ?? 0;
    const word = element("span", { class: score < 0 ? "against" : "for", title: signed(score), "data-score": score }, text.slice(start, end));
    word.style.setProperty("--level", scale ? (Math.abs(score) / scale).toFixed(3) : "0");
    return [before, word];
  };
  return element("div", {}, paged(box, offsets, "word", draw, { rest: () => [text.slice(at)] }));
}
