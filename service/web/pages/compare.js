/** *Compare*: one question through several arms and adapters, side by side as they are written. */

import { ask, blind, isAbort } from '../api.js';
import { armHelp, armName, offered } from '../components/arms.js';
import { answerFacts, answerText, citationList, passageList } from '../components/answer.js';
import { runBlind, standings } from '../components/blind.js';
import { problemBox } from '../components/problem.js';
import { announce, append, button, checkbox, field, fill, form, h } from '../dom.js';
import { t } from '../i18n.js';

const AT_ONCE = 4; // a browser opens six connections to one server; two stay free for everything else

/** @param {import('../app.js').View} view */
export default async function comparePage(view) {
  const { arms, adapters } = await offered(view.signal);
  const choices = [
    ...arms.filter((arm) => arm !== 'auto').map((arm) => ({ label: armName(arm), ask: { mode: arm } })),
    ...adapters.map((name) => ({ label: name, ask: { mode: 'combined', adapter: name } })),
  ];
  const blindly = checkbox(t('blind.mode'));
  const isBlind = () => blindly.querySelector('input').checked;
  const boxes = choices.map((choice) => checkbox(choice.label, { checked: !('adapter' in choice.ask) }));
  const input = h(
    'textarea',
    { rows: '2', required: true, dir: 'auto', placeholder: t('ask.placeholder') },
    view.params.get('question') || '',
  );
  const results = h('div', { class: 'arms' });
  const past = standings(await blind.standings(view.collection, view.signal));
  const send = h('button', { class: 'primary' }, t('compare.start'));
  let running = null;
  const stop = button(t('ask.stop'), () => running?.abort(), { hidden: true });
  const run = async () => {
    const chosen = choices.filter((_, at) => boxes[at].querySelector('input').checked);
    if (!chosen.length) return;
    running = new AbortController();
    view.signal.addEventListener('abort', () => running.abort());
    [send.disabled, stop.hidden] = [true, false];
    const question = { question: input.value.trim(), collection: view.collection };
    if (isBlind()) await blindRun(chosen, question);
    else await openRun(chosen, question);
    [send.disabled, stop.hidden] = [false, true];
  };
  const blindRun = async (chosen, question) => {
    results.className = '';
    const arms = chosen.map((choice) => choice.ask.adapter || choice.ask.mode);
    try {
      if (arms.length !== 2) fill(results, h('p', { class: 'hint', role: 'alert' }, t('blind.two')));
      else await runBlind(results, { ...question, arms }, running.signal);
    } catch (error) {
      fill(results, isAbort(error) ? h('p', { class: 'hint' }, t('ask.stopped')) : problemBox(error));
    }
  };
  const openRun = async (chosen, question) => {
    results.className = 'arms';
    const columns = chosen.map((choice) => column(choice));
    fill(
      results,
      columns.map((each) => each.element),
    );
    await atOnce(columns.map((each) => () => each.run(question, running.signal)));
    announce(t('compare.ready'));
  };
  append(view.main, [
    form(
      run,
      field(t('ask.question'), input),
      h('fieldset', {}, h('legend', {}, t('compare.arms')), h('div', { class: 'row' }, boxes)),
      h('div', { class: 'row' }, blindly),
      h('div', { class: 'row' }, send, stop),
      armHelp(),
    ),
    results,
    past && h('details', {}, h('summary', {}, t('blind.past')), past),
  ]);
}

/** Do all of it, a few at a time. @param {(() => Promise<void>)[]} waiting */
export async function atOnce(waiting) {
  const work = async () => {
    for (let next = waiting.shift(); next; next = waiting.shift()) await next();
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
}

/**
 * One way to ask: its element, and what asks the question through it.
 * @param {{label: string, ask: any}} choice @param {string} heading
 */
export function column(choice, heading = 'h2') {
  const body = h('div', { class: 'hint' }, t('compare.waiting'));
  const element = h('article', { class: 'card', 'aria-busy': 'true' }, h(heading, {}, choice.label), body);
  /** @param {any} question @param {AbortSignal} signal */
  const run = async (question, signal) => {
    const text = h('div', { class: 'answer-text', dir: 'auto' });
    fill(body, text);
    body.className = '';
    try {
      for await (const event of ask({ ...question, ...choice.ask }, signal)) {
        if (event.event === 'token') append(text, event.data.text);
        if (event.event === 'answer') draw(body, event.data);
      }
    } catch (error) {
      if (isAbort(error)) append(body, h('p', { class: 'hint' }, t('ask.stopped')));
      else fill(body, problemBox(error));
    }
    element.removeAttribute('aria-busy');
  };
  return { element, run };
}

/** @param {HTMLElement} body @param {import('../api.js').Answer} answer */
function draw(body, answer) {
  fill(
    body,
    answer.abstained && h('p', { class: 'badge warning' }, t('answer.abstained')),
    answerText(answer),
    citationList(answer),
    answerFacts(answer),
    passageList(answer.passages),
  );
}
