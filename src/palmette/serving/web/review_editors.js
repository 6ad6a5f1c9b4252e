// How a label is changed: an editor for each form of label (docs/review.md). An editor draws itself into a box, its
// labels into a palette, and tells `changed` of each change. It has `label()` (null: nothing to judge), `note()`,
// `key(event)` (whether it knows the key), `reset()` and `focus()`.

import { Text } from "./offsets.js";
import { count, element } from "./page.js";

const KEYS = "123456789abcdefghijklmnopqrstuvwxyz"; // of labels, in their order; 0 is for none
const COLOURS = 8; // .c0 … .c7 in app.css

/** Whether two labels are the same, as JSON. */
export const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);

export function editorFor(item, box, palette, changed) {
  box.replaceChildren();
  palette.replaceChildren();
  const make = { tags: Tags, spans: Spans, class: Class, classes: Classes, number: Typed, answer: Passage, text: Typed }[item.form] ?? Typed;
  const editor = new make(item, box, palette, changed);
  editor.draw();
  return editor;
}

/** The texts of an item, for forms that do not mark words. */
function context({ text, text_pair: pair }) {
  return [text, pair].filter((part) => part !== null).map((part) => element("p", { class: "context", dir: "auto" }, part));
}

class Editor {
  constructor(item, box, palette, changed) {
    Object.assign(this, { item, box, palette, changed });
    this.value = this.start();
  }

  /** What it begins with: the model's answer, or nothing where that cannot be read. */
  start() {
    return structuredClone(this.item.prediction);
  }

  label() {
    return this.value;
  }

  note() {
    return "";
  }

  reset() {
    this.value = this.start();
    this.draw();
    this.changed();
    this.focus(); // what was drawn anew has lost it
  }

  focus() {
    this.box.closest("section").focus();
  }

  key({ key }) {
    if (key === "0" || key === "Backspace" || key === "Delete") return this.choose(null);
    const place = KEYS.indexOf(key.toLowerCase());
    const names = this.names();
    return key.length === 1 && place >= 0 && place < names.length ? this.choose(names[place]) : false;
  }

  names() {
    return this.item.labels;
  }

  /** Buttons for labels, with the key of each. */
  drawPalette(pressed, { none = null, coloured = false } = {}) {
    const button = (name, number) =>
      element(
        "button",
        { type: "button", "aria-pressed": String(pressed(name)), "data-label": name, onclick: () => this.choose(name) },
        coloured ? element("span", { class: `swatch c${number % COLOURS}` }) : null,
        element("span", { dir: "auto" }, name),
        number < KEYS.length ? element("kbd", {}, KEYS[number]) : null,
      );
    const rest = none ? [element("button", { type: "button", "data-label": "", onclick: () => this.choose(null) }, none, element("kbd", {}, "0"))] : [];
    this.palette.replaceChildren(...this.names().map(button), ...rest);
  }

  set(value) {
    this.value = value;
    this.draw();
    this.changed();
    return true;
  }
}

// One choice, or several ---------------------------------------------------------------------------------------------

class Class extends Editor {
  draw() {
    this.box.replaceChildren(...context(this.item));
    this.drawPalette((name) => name === this.value);
  }

  choose(name) {
    return name === null ? false : this.set(name);
  }
}

class Classes extends Editor {
  draw() {
    this.box.replaceChildren(...context(this.item));
    this.drawPalette((name) => Boolean(this.value?.includes(name)), { none: "none of them" });
  }

  choose(name) {
    if (name === null) return this.set([]);
    const before = this.value ?? [];
    const members = before.includes(name) ? before.filter((other) => other !== name) : [...before, name];
    return this.set(members.sort((one, other) => (one < other ? -1 : 1)));
  }
}

// Words --------------------------------------------------------------------------------------------------------------

/** Words that the arrow keys select. */
class Words extends Editor {
  constructor(...given) {
    super(...given);
    this.at = this.from = 0;
    this.extending = false;
  }

  words() {
    return this.item.words ?? (this.value ?? []).map((_, number) => `word ${number + 1}`);
  }

  offsets() {
    return this.item.offsets;
  }

  string() {
    return this.item.text;
  }

  range() {
    return [Math.min(this.at, this.from), Math.max(this.at, this.from) + 1];
  }

  select(at, extend) {
    this.at = Math.min(Math.max(at, 0), this.words().length - 1);
    if (!extend) this.from = this.at;
    this.draw();
    this.focus();
  }

  key(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity }[event.key];
    if (step === undefined) return super.key(event);
    this.select(this.at + step, event.shiftKey);
    return true;
  }

  focus() {
    const word = this.box.querySelector(`[data-word="${this.at}"]`);
    if (word) word.focus();
    else super.focus();
  }

  drawWords(about) {
    const [start, stop] = this.range();
    const string = this.string() === null ? null : new Text(this.string());
    const offsets = this.offsets();
    const drawn = this.words().flatMap((word, number) => {
      const { classes = [], under = null } = about(number);
      const selected = number >= start && number < stop;
      const button = element(
        "button",
        {
          type: "button",
          class: [...classes, selected ? "selected" : ""].join(" "),
          tabindex: number === this.at ? "0" : "-1",
          "data-word": number,
          "aria-pressed": String(selected),
          onclick: (event) => this.select(number, event.shiftKey || this.extending),
        },
        element("span", { class: "word" }, word),
        under,
      );
      const newLine = string && number && string.slice(offsets[number - 1][1], offsets[number][0]).includes("\n");
      return newLine ? [element("span", { class: "break" }), button] : [button];
    });
    const extend = element(
      "button",
      {
        type: "button",
        class: "quiet extend",
        "aria-pressed": String(this.extending),
        onclick: () => {
          this.extending = !this.extending;
          this.draw();
        },
      },
      this.extending ? "Tap the last word …" : "Select several words",
    );
    return [element("div", { class: "words", dir: "auto" }, drawn), this.several ? extend : null].filter(Boolean);
  }
}

class Tags extends Words {
  several = true;

  start() {
    return super.start() ?? this.words().map(() => null);
  }

  /** Nothing before every word has its tag. */
  label() {
    return this.value.includes(null) || (this.item.prediction === null && !this.value.length) ? null : this.value;
  }

  draw() {
    const before = this.item.prediction ?? [];
    this.box.replaceChildren(
      ...this.drawWords((number) => ({
        classes: this.value[number] === before[number] ? [] : ["changed"],
        under: element("span", { class: "tag", dir: "ltr" }, this.value[number] ?? "–"),
      })),
    );
    const [start, stop] = this.range();
    this.drawPalette((name) => this.value.slice(start, stop).every((tag) => tag === name));
  }

  choose(name) {
    if (name === null) return false;
    const [start, stop] = this.range();
    this.set(this.value.map((tag, number) => (number >= start && number < stop ? name : tag)));
    this.extending = false;
    this.select(stop - 1 + (start + 1 === stop ? 1 : 0), false); // one word: on to the next one
    return true;
  }

  note() {
    const changes = this.value.filter((tag, number) => tag !== this.item.prediction?.[number]).length;
    return changes ? `${count(changes, "word")} changed` : "";
  }
}

/** IOB2 tags -> [start, stop, type] of each span. */
function spansOf(tags) {
  const spans = [];
  tags.forEach((tag, number) => {
    if (tag === "O") return;
    const last = spans.at(-1);
    if (tag.startsWith("I-") && last && last[1] === number && last[2] === tag.slice(2)) last[1]++;
    else spans.push([number, number + 1, tag.slice(2)]);
  });
  return spans;
}

function tagsOf(spans, length) {
  const tags = Array(length).fill("O");
  for (const [start, stop, type] of spans) for (let at = start; at < stop; at++) tags[at] = `${at === start ? "B" : "I"}-${type}`;
  return tags;
}

class Spans extends Words {
  several = true;

  names() {
    const types = this.item.labels.filter((label) => label !== "O").map((label) => label.slice(2));
    return [...new Set([...types, ...spansOf(this.item.prediction ?? []).map(([, , type]) => type)])].sort();
  }

  draw() {
    const spans = spansOf(this.value ?? []);
    const names = this.names();
    const about = (number) => {
      const span = spans.find(([start, stop]) => number >= start && number < stop);
      if (!span) return {};
      const first = span[0] === number;
      const label = element("b", { class: "label", dir: "auto" }, span[2]);
      return { classes: ["inside", `c${names.indexOf(span[2]) % COLOURS}`, first ? "first" : ""], under: first ? label : null };
    };
    this.box.replaceChildren(...this.drawWords(about));
    const [from, to] = this.range();
    this.drawPalette((name) => spans.some(([start, stop, type]) => start === from && stop === to && type === name), { none: "no span", coloured: true });
  }

  choose(name) {
    if (!this.words().length) return false;
    const [from, to] = this.range();
    const rest = spansOf(this.value ?? []).filter(([start, stop]) => stop <= from || start >= to);
    this.extending = false;
    this.set(tagsOf(name === null ? rest : [...rest, [from, to, name]], this.words().length));
    this.focus();
    return true;
  }

  note() {
    const [before, after] = [this.item.prediction, this.value].map((tags) => spansOf(tags ?? []).map(String));
    const gone = before.filter((span) => !after.includes(span)).length;
    const added = after.filter((span) => !before.includes(span)).length;
    return gone || added ? `${count(added, "span")} new or changed, ${gone} of the model's gone` : "";
  }
}

/** A stretch of the passage, by whole words. */
class Passage extends Words {
  several = true;

  constructor(...given) {
    super(...given);
    this.passage = this.item.text_pair === null ? null : new Text(this.item.text_pair);
    const inside = this.marked();
    if (inside) [this.from, this.at] = [inside[0], inside[1] - 1];
  }

  words() {
    return this.item.pair_words ?? [];
  }

  offsets() {
    return this.item.pair_offsets;
  }

  string() {
    return this.item.text_pair;
  }

  names() {
    return ["answer"];
  }

  /** The words of the answer: [start, stop), or null. */
  marked() {
    const [answer] = this.value ?? [];
    if (!answer || !this.passage) return null;
    const end = answer.answer_start + [...answer.text].length;
    const inside = this.offsets().flatMap(([start, stop], number) => (start < end && stop > answer.answer_start ? [number] : []));
    return inside.length ? [inside[0], inside.at(-1) + 1] : null;
  }

  draw() {
    const inside = this.marked();
    const about = (number) => (inside && number >= inside[0] && number < inside[1] ? { classes: ["inside", "c2", number === inside[0] ? "first" : ""] } : {});
    const question = element("p", { class: "context", dir: "auto" }, this.item.text ?? "The text is not kept.");
    this.box.replaceChildren(question, ...(this.passage ? this.drawWords(about) : []));
    const [from, to] = this.range();
    if (this.passage) this.drawPalette(() => Boolean(inside) && inside[0] === from && inside[1] === to, { none: "no answer" });
  }

  choose(name) {
    if (!this.passage) return false;
    this.extending = false;
    const [from, to] = this.range();
    const [start, stop] = [this.offsets()[from][0], this.offsets()[to - 1][1]];
    this.set(name === null ? [] : [{ text: this.passage.slice(start, stop), answer_start: start }]);
    this.focus();
    return true;
  }

  note() {
    const [answer] = this.value ?? [];
    return answer ? `Answer: ${answer.text}` : "No answer in the passage.";
  }
}

// Typed --------------------------------------------------------------------------------------------------------------

/** Numbers, texts, and labels of kinds that this page does not know, as JSON. */
class Typed extends Editor {
  draw() {
    const { form } = this.item;
    const json = form !== "number" && form !== "text";
    const written = form === "text" ? (this.value?.[0] ?? "") : form === "number" ? String(this.value ?? "") : JSON.stringify(this.value, null, 1);
    const name = form === "number" ? "input" : "textarea";
    const read = (event) => {
      this.value = this.parse(event.target.value, form);
      this.changed();
    };
    this.field = element(name, { "aria-label": json ? "Label, as JSON" : "Label", inputmode: form === "number" ? "decimal" : null, rows: form === "number" ? null : 4, dir: "auto", oninput: read });
    this.field.value = written;
    this.box.replaceChildren(...context(this.item), this.field);
  }

  parse(written, form) {
    if (form === "text") return written.trim() ? [written] : null;
    if (form === "number") return written.trim() && Number.isFinite(Number(written)) ? Number(written) : null;
    try {
      return JSON.parse(written);
    } catch {
      return null;
    }
  }

  key() {
    return false;
  }

  choose() {
    return false;
  }

  focus() {
    this.field.focus();
  }
}
