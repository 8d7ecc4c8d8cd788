/**
 * Elements from plain calls. Whatever a document, a model or a person wrote becomes a text node here and nothing
 * else: no string is ever read as HTML, and a link leads to http(s), to this page or to this server.
 */

import { visible } from './text.js';

/** A node, a text, or nothing; lists of them may be nested. @typedef {any} Child */

const SVG = 'http://www.w3.org/2000/svg';
const SVG_TAGS = new Set(['svg', 'polyline', 'line']);
const PROPERTIES = new Set([
  'value',
  'checked',
  'disabled',
  'selected',
  'hidden',
  'open',
  'max',
  'multiple',
  'required',
]);

/**
 * Make an element.
 * @param {string} tag
 * @param {Record<string, any>} [props] `on` holds event listeners; null, undefined and false leave an attribute out
 * @param {...Child} children
 * @returns {any}
 */
export function h(tag, props = {}, ...children) {
  const element = SVG_TAGS.has(tag) ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(props)) setProp(element, name, value);
  append(element, children);
  return element;
}

/** @param {any} element @param {string} name @param {any} value */
function setProp(element, name, value) {
  if (name === 'on') {
    for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
  } else if (value === null || value === undefined || value === false) {
    return;
  } else if (name === 'href') {
    if (isSafeLink(value)) element.setAttribute('href', value);
  } else if (PROPERTIES.has(name) && name in element) {
    element[name] = value;
  } else {
    element.setAttribute(name, value === true ? '' : String(value));
  }
}

/** @param {string} url */
export function isSafeLink(url) {
  return /^(https?:\/\/|#|\/(?!\/))/i.test(url);
}

/** @param {ParentNode} parent @param {Child} children */
export function append(parent, children) {
  for (const child of [children].flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    parent.append(child instanceof Node ? child : visible(String(child)));
  }
}

/** Put children in the place of what an element holds. @param {any} element @param {...Child} children */
export function fill(element, ...children) {
  element.replaceChildren();
  append(element, children);
  return element;
}

/** A form that does `run` when it is submitted, and stays. @param {() => any} run @param {...Child} children */
export function form(run, ...children) {
  const submit = (/** @type {Event} */ event) => {
    event.preventDefault();
    run();
  };
  return h('form', { class: 'card', on: { submit } }, ...children);
}

/**
 * A labelled form field; the control gets the id that its label and hint name.
 * @param {string} label @param {any} control @param {string} [hint]
 */
export function field(label, control, hint) {
  const id = (control.id ||= uniqueId());
  if (hint) control.setAttribute('aria-describedby', `${id}-hint`);
  return h(
    'div',
    { class: 'field' },
    h('label', { for: id }, label),
    control,
    hint && h('p', { class: 'hint', id: `${id}-hint` }, hint),
  );
}

/** A checkbox with its label. @param {string} label @param {Record<string, any>} [props] */
export function checkbox(label, props = {}) {
  return h('label', { class: 'check' }, h('input', { type: 'checkbox', ...props }), h('span', {}, label));
}

/** @param {string[][]} options value and label @param {string} chosen @param {Record<string, any>} [props] */
export function select(options, chosen, props = {}) {
  return h(
    'select',
    props,
    options.map(([value, label]) => h('option', { value, selected: value === chosen }, label)),
  );
}

/** @param {string} label @param {(event: Event) => any} onClick @param {Record<string, any>} [props] */
export function button(label, onClick, props = {}) {
  return h('button', { type: 'button', ...props, on: { click: onClick } }, label);
}

/**
 * A table that scrolls by itself where the screen is narrow. A header takes the class of its column: `n` numbers,
 * `minor` left out on a phone.
 * @param {string} caption @param {Child[]} headers @param {any[]} rows `<tr>` elements
 */
export function table(caption, headers, rows) {
  const like = (at) => rows[0]?.children[at]?.className.replace('row', '').trim() || null;
  return h(
    'div',
    { class: 'scroll', role: 'region', 'aria-label': caption, tabindex: '0' },
    h(
      'table',
      {},
      h('caption', { class: 'unseen' }, caption),
      h(
        'thead',
        {},
        h(
          'tr',
          {},
          headers.map((header, at) => h('th', { scope: 'col', class: like(at) }, header)),
        ),
      ),
      h('tbody', {}, rows),
    ),
  );
}

/** Text from outside, in a direction of its own. @param {string} text @param {string} [tag] @param {string} [cls] */
export function foreign(text, tag = 'bdi', cls = '') {
  return h(tag, { dir: 'auto', class: cls || null }, text);
}

let ids = 0;
export const uniqueId = () => `id-${++ids}`;

/**
 * Open a modal dialog and return it; it leaves the page when it is closed.
 * @param {string} title @param {Child} content @param {string} closeLabel
 */
export function dialog(title, content, closeLabel) {
  const heading = h('h2', { id: uniqueId() }, title);
  const close = () => box.close();
  const box = h(
    'dialog',
    { 'aria-labelledby': heading.id, on: { close: () => box.remove() } },
    h('header', {}, heading, button('×', close, { class: 'icon', 'aria-label': closeLabel })),
    h('div', { class: 'dialog-body' }, content),
  );
  document.body.append(box);
  box.showModal();
  return box;
}

const live = h('div', { role: 'status', class: 'unseen' });

/** Tell people who do not see the screen what has happened. @param {string} message */
export function announce(message) {
  if (!live.isConnected) document.body.append(live);
  live.textContent = visible(message);
}
