/** One pair under review: its question and answer, its checks, and its passages with the answer marked. */

import { button, field, foreign, h } from '../dom.js';
import { t, tOr } from '../i18n.js';
import { splitSpan } from '../text.js';
import { openSource } from './source.js';

/** @param {any} pair */
export const pairBadges = (pair) => [
  h('span', { class: `badge ${pair.status}` }, t(`pair.status.${pair.status}`)),
  h('span', { class: 'badge' }, tOr(`pair.kind.${pair.kind}`, pair.kind)),
  pair.stale && h('span', { class: 'badge warning' }, t('pair.stale')),
];

/** @param {any} pair */
export function pairFacts(pair) {
  const failed = Object.entries(pair.checks).filter(([, check]) => check && check.passed === false);
  return h(
    'div',
    {},
    h(
      'p',
      { class: 'hint' },
      pairBadges(pair),
      ' ',
      t('pair.by', { name: pair.generated_by }),
      pair.reason && [' · ', foreign(pair.reason)],
    ),
    failed.length > 0 &&
      h(
        'ul',
        { class: 'checks' },
        failed.map(([name, check]) =>
          h(
            'li',
            {},
            h('strong', {}, tOr(`check.${name}`, name)),
            check.reason && [': ', foreign(String(check.reason))],
          ),
        ),
      ),
  );
}

/** The passages that a pair rests on, each with the answer's place marked. @param {any} pair */
export function pairPassages(pair) {
  if (!pair.passages.length) return h('p', { class: 'empty' }, t('pair.no_passage'));
  return pair.passages.map((passage) => {
    const { start, end } = passage.span || { start: 0, end: 0 };
    const [before, inside, after] = splitSpan(passage.text, start, end);
    const place = passage.span ? { ...passage, start: passage.start + start, end: passage.start + end } : passage;
    return h(
      'article',
      { class: 'passage' },
      button(passage.title || passage.source, () => openSource(place), { class: 'link' }),
      passage.page && h('span', { class: 'hint' }, ' · ', t('source.page', { n: passage.page })),
      h('p', { class: 'text', dir: 'auto' }, before, inside && h('mark', {}, inside), after),
    );
  });
}

/**
 * The form that corrects a pair. @param {any} pair
 * @param {(changes: Record<string, string>) => void} save @param {() => void} cancel
 */
export function pairForm(pair, save, cancel) {
  const question = h('textarea', { rows: '2', required: true, dir: 'auto' }, pair.question);
  const answer = h(
    'textarea',
    { rows: '3', required: pair.kind !== 'unanswerable', disabled: pair.kind === 'unanswerable', dir: 'auto' },
    pair.answer,
  );
  const changes = () => {
    const made = { question: question.value, answer: answer.value, status: 'accepted' };
    return Object.fromEntries(
      Object.entries(made).filter(([name, value]) => name === 'status' || value !== pair[name]),
    );
  };
  const form = h(
    'form',
    {
      on: {
        submit: (event) => {
          event.preventDefault();
          save(changes());
        },
      },
    },
    field(t('pair.question'), question),
    field(t('pair.answer'), answer),
    h('div', { class: 'row' }, h('button', { class: 'primary' }, t('pair.save')), button(t('app.cancel'), cancel)),
  );
  form.addEventListener('keydown', (event) => event.key === 'Escape' && cancel());
  return { form, focus: () => question.focus() };
}
