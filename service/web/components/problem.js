/** An error in the place where it happened: what was wrong, what was wanted, what to do. */

import { ApiError } from '../api.js';
import { button, foreign, h } from '../dom.js';
import { t, tOr } from '../i18n.js';

/**
 * @param {any} error @param {() => any} [retry] offered as a button
 * @returns {HTMLElement}
 */
export function problemBox(error, retry) {
  const shown =
    error instanceof ApiError || error?.detail ? error : { title: '', detail: error?.message || String(error) };
  const facts = [
    ['problem.got', shown.got],
    ['problem.wanted', shown.wanted],
  ].filter(([, value]) => isSaid(value));
  const detail = shown.detail || shown.title || '';
  const title = tOr(`problem.${shown.type}`, detail);
  return h(
    'div',
    { class: 'problem', role: 'alert' },
    h('p', { class: 'problem-title' }, foreign(title)),
    detail && detail !== title && h('p', {}, foreign(detail)),
    facts.length > 0 &&
      h(
        'dl',
        {},
        facts.map(([key, value]) => [h('dt', {}, t(key)), h('dd', {}, foreign(String(value)))]),
      ),
    shown.hint && h('p', {}, h('strong', {}, t('problem.hint'), ' '), foreign(shown.hint)),
    retry && button(t('app.retry'), retry),
  );
}

/** @param {any} value */
const isSaid = (value) => value !== null && value !== undefined && value !== '';

/**
 * Run what a button starts; an error is shown in `place`, the button is off meanwhile.
 * @param {any} control @param {HTMLElement} place @param {() => Promise<any>} work
 */
export async function attempt(control, place, work) {
  control.disabled = true;
  place.replaceChildren();
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof DOMException)) place.append(problemBox(error));
    return undefined;
  } finally {
    control.disabled = false;
  }
}
