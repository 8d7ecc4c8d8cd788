/** A document's text with one span marked, opened over the page; only the neighbourhood of the span is drawn at first. */

import { documents } from '../api.js';
import { button, dialog, fill, foreign, h } from '../dom.js';
import { t } from '../i18n.js';
import { splitSpan } from '../text.js';
import { problemBox } from './problem.js';

const AROUND = 6000;

/**
 * @param {{document_id: string, source: string, title: string, heading: string, page: number | null, start: number,
 *   end: number}} place start and end in code points
 */
export async function openSource(place) {
  const body = h('div', { class: 'source', 'aria-busy': 'true' }, t('app.loading'));
  const facts = [place.heading, place.page !== null && place.page !== undefined && t('source.page', { n: place.page })];
  dialog(
    place.title || place.source,
    [
      h(
        'p',
        { class: 'hint' },
        foreign(place.source),
        facts.filter(Boolean).map((fact) => [' · ', foreign(String(fact))]),
      ),
      body,
    ],
    t('app.close'),
  );
  try {
    const { text } = await documents.text(place.document_id);
    draw(body, splitSpan(text, place.start, place.end));
  } catch (error) {
    fill(body, error.status === 404 ? t('source.gone') : problemBox(error));
  }
  body.removeAttribute('aria-busy');
}

/** @param {HTMLElement} body @param {[string, string, string]} parts */
function draw(body, [before, inside, after]) {
  const mark = h('mark', { tabindex: '-1', dir: 'auto' }, inside);
  const pre = h('div', { class: 'text', dir: 'auto', tabindex: '0', role: 'region', 'aria-label': t('source.text') });
  const near = () => fill(pre, before.slice(-AROUND), mark, after.slice(0, AROUND));
  const whole = () => {
    fill(pre, before, mark, after);
    more.remove();
    mark.scrollIntoView({ block: 'center' });
  };
  const more = button(t('source.whole'), whole);
  near();
  fill(body, pre, (before.length > AROUND || after.length > AROUND) && more);
  mark.scrollIntoView({ block: 'center' });
  mark.focus();
}
