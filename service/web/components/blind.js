/** A blind comparison: two answers as A and B, a vote, and only then which arm wrote which; what all votes say. */

import { blind } from '../api.js';
import { announce, button, fill, foreign, h, table } from '../dom.js';
import { number, percent, t } from '../i18n.js';
import { passageList } from './answer.js';
import { armName } from './arms.js';
import { attempt } from './problem.js';

const LETTERS = /** @type {const} */ (['A', 'B']);

/**
 * Ask two arms and show what they wrote.
 * @param {HTMLElement} place @param {{question: string, collection: string, arms: string[]}} asked
 * @param {AbortSignal} signal
 */
export async function runBlind(place, asked, signal) {
  fill(place, h('p', { class: 'hint working' }, t('compare.waiting')));
  draw(place, await blind.start(asked, signal));
}

/** @param {HTMLElement} place @param {any} trial */
function draw(place, trial) {
  const problems = h('div');
  const standing = h('div');
  const heads = LETTERS.map((letter) => h('h2', {}, t('blind.answer', { letter })));
  const cards = LETTERS.map((letter, at) =>
    h(
      'article',
      { class: 'card' },
      heads[at],
      trial.answers[letter].abstained && h('p', { class: 'badge warning' }, t('answer.abstained')),
      h('div', { class: 'answer-text', dir: 'auto' }, trial.answers[letter].text),
    ),
  );
  const choices = [
    ...LETTERS.map((letter) => ({ vote: letter, label: t('blind.better', { letter }) })),
    { vote: /** @type {const} */ ('tie'), label: t('blind.tie') },
  ];
  const buttons = choices.map(({ vote, label }) =>
    button(label, (event) =>
      attempt(event.target, problems, async () => {
        const told = await blind.vote(trial.id, vote);
        for (const each of buttons) each.hidden = true;
        LETTERS.forEach((letter, at) => fill(heads[at], `${letter}: `, foreign(nameOf(told.arms[letter]))));
        announce(t('blind.thanks'));
        fill(standing, h('p', {}, t('blind.thanks')), standings(await blind.standings(trial.collection)));
      }),
    ),
  );
  fill(
    place,
    h('div', { class: 'arms' }, cards),
    h('div', { class: 'row', role: 'group', 'aria-label': t('blind.vote') }, buttons),
    problems,
    standing,
    passageList(trial.sources),
  );
  announce(t('blind.ready'));
}

/** @param {{arm: string, adapter: string | null}} side */
function nameOf({ arm, adapter }) {
  return adapter && adapter !== arm ? `${armName(arm)} (${adapter})` : armName(arm);
}

/** What the votes say of every two arms. @param {any} found */
export function standings(found) {
  if (!found.pairs.length) return null;
  const titles = ['blind.pair', 'blind.wins', 'blind.losses', 'blind.ties', 'blind.rate', 'evaluations.interval', 'blind.p'];
  const rows = found.pairs.map((pair) => {
    const interval = pair.win_rate_ci ? pair.win_rate_ci.map(percent).join(' – ') : '–';
    const counts = [pair.wins, pair.losses, pair.ties].map((n) => h('td', { class: 'n' }, number(n)));
    return h(
      'tr',
      {},
      h('th', { scope: 'row' }, t('blind.against', { a: nameOf(pair.a), b: nameOf(pair.b) })),
      counts,
      h('td', { class: 'n' }, percent(pair.win_rate)),
      h('td', { class: 'n' }, interval),
      h('td', { class: 'n' }, number(pair.p, 3)),
    );
  });
  return h(
    'section',
    {},
    h('h2', {}, t('blind.standings')),
    table(
      t('blind.standings'),
      titles.map((key) => t(key)),
      rows,
    ),
    h('p', { class: 'hint' }, t('blind.why')),
  );
}
