/** Text as it comes from documents and models: made visible, cut by code points, links found. Knows no elements. */

// Control characters (but tab and line ends) and the two that turn the reading direction around.
const HIDDEN = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u202d\u202e]/g;

/**
 * Show what would act instead of being seen. One character stays one, so that offsets hold.
 * @param {string} text
 */
export function visible(text) {
  return text.replace(HIDDEN, (character) => {
    const code = character.charCodeAt(0);
    return code < 0x20 ? String.fromCharCode(0x2400 + code) : '\ufffd';
  });
}

/**
 * Split a text into what is before, inside and after a span. The API counts code points, JavaScript UTF-16 units.
 * @param {string} text @param {number} start @param {number} end in code points
 * @returns {[string, string, string]}
 */
export function splitSpan(text, start, end) {
  const from = unitsOf(text, 0, start);
  const to = unitsOf(text, from, Math.max(0, end - start));
  return [text.slice(0, from), text.slice(from, to), text.slice(to)];
}

/** @param {string} text @param {number} from in UTF-16 units @param {number} points */
function unitsOf(text, from, points) {
  let at = from;
  for (let left = points; left > 0 && at < text.length; left -= 1) {
    at += Number(text.codePointAt(at)) > 0xffff ? 2 : 1;
  }
  return at;
}

/** @typedef {{text: string, url?: string, cite?: number}} Piece */

const MARKS = /\[(\d{1,3})\]|https?:\/\/[^\s<>"'\u3000-\u303f\uff00-\uffef]+/gi;

/**
 * Find the citation marks and the http(s) addresses of an answer.
 * @param {string} text @param {Set<number>} cited the numbers that are citations
 * @returns {Piece[]}
 */
export function pieces(text, cited) {
  /** @type {Piece[]} */
  const found = [];
  let at = 0;
  for (const match of text.matchAll(MARKS)) {
    const cite = match[1] === undefined ? undefined : Number(match[1]);
    if (cite !== undefined && !cited.has(cite)) continue;
    const whole = cite === undefined ? match[0].replace(/[.,;:!?)\]]+$/, '') : match[0];
    found.push({ text: text.slice(at, match.index) });
    found.push(cite === undefined ? { text: whole, url: whole } : { text: whole, cite });
    at = match.index + whole.length;
  }
  found.push({ text: text.slice(at) });
  return found.filter((piece) => piece.text);
}
