/** An answer as it is shown: its text with citations, the passages it was written from, and what people say of it. */

import { giveFeedback } from '../api.js';
import { announce, button, field, fill, foreign, h } from '../dom.js';
import { number, percent, t, tOr } from '../i18n.js';
import { pieces, splitSpan } from '../text.js';
import { attempt } from './problem.js';
import { openSource } from './source.js';

/**
 * The text with its marks as buttons and its addresses as links.
 * @param {import('../api.js').Answer} answer
 */
export function answerText(answer) {
  const cited = new Map(answer.citations.map((citation) => [citation.n, citation]));
  const marked = (text) =>
    pieces(text, new Set(cited.keys())).map((piece) => {
      if (piece.cite !== undefined) return citationButton(cited.get(piece.cite), piece.text);
      if (piece.url) return h('a', { href: piece.url, rel: 'noopener noreferrer', target: '_blank' }, piece.text);
      return piece.text;
    });
  return h(
    'div',
    { class: 'answer-text', dir: 'auto' },
    sentencesOf(answer).map(({ text, doubtful }) =>
      doubtful ? h('span', { class: 'doubtful' }, marked(text)) : marked(text),
    ),
  );
}

/** The text cut where a sentence begins that no passage bears out. @param {import('../api.js').Answer} answer */
function sentencesOf({ answer, sentences = [] }) {
  const doubts = sentences.filter((sentence) => !sentence.supported).sort((a, b) => b.start - a.start);
  let rest = answer;
  const parts = doubts.flatMap(({ start, end }) => {
    const [before, inside, after] = splitSpan(rest, start, end);
    rest = before;
    return [
      { text: after, doubtful: false },
      { text: inside, doubtful: true },
    ];
  });
  return [...parts, { text: rest, doubtful: false }].reverse();
}

/** @param {any} citation @param {string} text */
function citationButton(citation, text) {
  const label = t('answer.cite', { n: citation.n, title: citation.title || citation.source });
  return button(text, () => openSource(citation), { class: 'cite', 'aria-label': label });
}

/** The cited sentences, each a way to its place in its document. @param {import('../api.js').Answer} answer */
export function citationList(answer) {
  if (!answer.citations.length) return null;
  return h(
    'ol',
    { class: 'citations', 'aria-label': t('answer.citations') },
    answer.citations.map((citation) =>
      h(
        'li',
        { value: citation.n },
        button(placeName(citation), () => openSource(citation), { class: 'link' }),
        !citation.supported && h('span', { class: 'badge warning' }, t('answer.unsupported')),
        foreign(citation.quote, 'blockquote'),
      ),
    ),
  );
}

/** @param {{title: string, source: string, heading: string, page: number | null}} place */
function placeName(place) {
  const page = place.page !== null && t('source.page', { n: place.page });
  return [place.title || place.source, place.heading, page]
    .filter((part, at, all) => part && all.indexOf(part) === at)
    .join(' · ');
}

/** @param {import('../api.js').Passage[]} passages @param {boolean} [open] */
export function passageList(passages, open = false) {
  if (!passages.length) return null;
  return h(
    'details',
    { class: 'passages', open },
    h('summary', {}, t('passages.title', { n: passages.length })),
    h(
      'ol',
      {},
      passages.map((passage) =>
        h(
          'li',
          { value: passage.rank },
          button(placeName(passage), () => openSource(passage), { class: 'link' }),
          h(
            'p',
            { class: 'hint' },
            tOr(`origin.${passage.origin || 'none'}`, passage.origin),
            ' · ',
            t('passages.score', { score: number(passage.score, 3) }),
            passage.duplicates > 0 && [' · ', t('passages.duplicates', { n: passage.duplicates })],
          ),
          foreign(passage.text, 'p', 'text'),
        ),
      ),
    ),
  );
}

/** One line of facts: how it was made and how probable it is that it is right, where that was calibrated. @param {import('../api.js').Answer} answer */
export function answerFacts(answer) {
  const facts = [
    tOr(`mode.${answer.mode}`, answer.mode),
    answer.adapter || answer.model,
    answer.confidence !== null && t('answer.confidence', { value: percent(answer.confidence) }),
    t('answer.seconds', { s: number((answer.timings_ms.total || 0) / 1000, 1) }),
    answer.passages_dropped > 0 && t('answer.dropped', { n: answer.passages_dropped }),
  ];
  return h(
    'p',
    { class: 'hint' },
    facts.filter(Boolean).join(' · '),
    answer.adapter_stale && h('span', { class: 'badge warning' }, t('adapters.stale')),
    answer.sentences?.some((sentence) => !sentence.supported) &&
      h('span', { class: 'badge warning' }, t('answer.doubtful')),
  );
}

/** Rating and correction, and what else stands beside them. @param {import('../api.js').Answer} answer @param {any} beside */
export function feedback(answer, beside) {
  const place = h('div');
  const done = h('p', { class: 'hint', hidden: true });
  const say = (control, said, words) =>
    attempt(control, place, async () => {
      await giveFeedback({ answer_id: answer.id, ...said });
      done.hidden = false;
      fill(done, words);
      announce(words);
      for (const other of rates) other.setAttribute('aria-pressed', String(other === control));
    });
  const rates = /** @type {HTMLButtonElement[]} */ (
    [
      ['feedback.good', 1],
      ['feedback.bad', -1],
    ].map(([key, rating]) =>
      button(t(String(key)), (event) => say(event.currentTarget, { rating }, t('feedback.kept')), {
        'aria-pressed': 'false',
      }),
    )
  );
  const input = h(
    'textarea',
    { rows: '3', required: true },
    answer.abstained ? '' : answer.answer.replace(/ ?\[\d+\]/g, ''),
  );
  const form = h(
    'form',
    {
      hidden: true,
      on: {
        submit: (event) => {
          event.preventDefault();
          say(event.submitter, { correction: input.value.trim() }, t('feedback.pair')).then(() => {
            form.hidden = !done.hidden;
          });
        },
      },
    },
    field(t('feedback.label'), input, t('feedback.hint')),
    h('button', { class: 'primary' }, t('feedback.send')),
  );
  const correct = button(t('feedback.correct'), () => {
    form.hidden = !form.hidden;
    if (!form.hidden) input.focus();
  });
  return h('div', { class: 'feedback' }, h('div', { class: 'row' }, rates, correct, beside), form, done, place);
}
