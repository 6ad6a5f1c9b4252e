// The API counts Unicode code points, as Python does; a JavaScript string is UTF-16, where an emoji is two units.

/** A text that is cut at code points. */
export class Text {
  constructor(string) {
    this.string = string;
    this.places = /[\ud800-\udfff]/.test(string) ? places(string) : null; // without surrogates the two counts are one
    this.length = this.places ? this.places.length - 1 : string.length;
  }

  /** Code points [start, end); numbers beyond the text are brought to its end. */
  slice(start, end = this.length) {
    return this.string.slice(this.#unit(start), this.#unit(end));
  }

  #unit(point) {
    const inside = Math.min(Math.max(point, 0), this.length);
    return this.places ? this.places[inside] : inside;
  }
}

/** Where each code point begins, in UTF-16 units; at last the length. */
function places(string) {
  const found = [];
  let unit = 0;
  for (const point of string) {
    found.push(unit);
    unit += point.length;
  }
  found.push(unit);
  return found;
}
