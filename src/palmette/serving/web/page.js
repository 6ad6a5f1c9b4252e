// Small things that every part of the page needs. Data becomes text nodes, never markup.

/** An element with properties (`class`, `title`, `data-…`, `aria-…`, `on…`) and children; empty children are left out. */
export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (typeof value === "function") made.addEventListener(key.slice(2), value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value != null) made.setAttribute(key, String(value));
  }
  made.append(...children.flat().filter((child) => child != null && child !== ""));
  return made;
}

export const byId = (id) => document.getElementById(id);

/** 0.9321 -> 93.2 % */
export const percent = (share) => `${(100 * share).toFixed(1)}\u202f%`;

export const signed = (score) => `${score < 0 ? "\u2212" : "+"}${Math.abs(score).toFixed(4)}`;

export const count = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;

/** A share as a bar; the number must stand beside it. Set through the object model: the page's policy forbids style attributes. */
export function bar(share) {
  const fill = element("span", { class: "fill" });
  fill.style.width = `${100 * Math.min(Math.max(share, 0), 1)}%`;
  return element("span", { class: "bar", "aria-hidden": "true" }, fill);
}

/**
 * A long list a page at a time, so that 100 kB of text do not freeze the browser.
 *
 * `draw(item, number)` gives what is appended to `box`; `rest()` what comes after the last item.
 */
export function paged(box, items, noun, draw, { size = 1000, rest = () => [] } = {}) {
  let shown = 0;
  const more = element("button", { type: "button", class: "quiet more", onclick: next });

  function next() {
    const stop = Math.min(shown + size, items.length);
    const made = document.createDocumentFragment();
    for (; shown < stop; shown++) made.append(...[draw(items[shown], shown)].flat());
    if (shown === items.length) made.append(...[rest()].flat());
    box.append(made);
    const left = items.length - shown;
    more.hidden = left === 0;
    more.textContent = `Show ${count(Math.min(size, left), `more ${noun}`)} of ${items.length.toLocaleString("en")}`;
  }

  next();
  return more.hidden ? [box] : [box, more];
}
