/** *Ask*: a conversation over the documents. */

import { ask, documents, isAbort, suggestedAdapter } from '../api.js';
import { adapterSelect, armHelp, armSelect, offered, sayWhatNoneMeans } from '../components/arms.js';
import { answerFacts, answerText, citationList, feedback, passageList } from '../components/answer.js';
import { conversations, currentTurns, goBackTo, history, keep, startAnew } from '../components/conversation.js';
import { problemBox } from '../components/problem.js';
import { announce, append, button, field, fill, foreign, h, select } from '../dom.js';
import { t, tOr } from '../i18n.js';
import { recall, remember } from '../session.js';

const METHODS = ['hybrid', 'dense', 'lexical'];

/** @param {import('../app.js').View} view */
export default async function askPage(view) {
  const { main, params, signal } = view;
  const chosen = { mode: 'auto', adapter: '', top_k: 4, max_tokens: 256, method: 'hybrid', ...recall('ask', {}) };
  for (const name of ['mode', 'adapter', 'collection']) {
    if (params.has(name)) chosen[name] = params.get(name);
  }
  const collection = params.get('collection') || view.collection;
  const [{ arms, adapters }, { documents: some }, suggested] = await Promise.all([
    offered(signal),
    documents.list({ collection, limit: 1 }, signal),
    suggestedAdapter(collection, signal),
  ]);
  const page = {
    view,
    collection,
    turns: currentTurns(),
    thread: h('div', { class: 'thread' }),
    earlier: h('div', { class: 'earlier' }),
  };
  const controls = settings(chosen, arms, adapters, suggested);
  append(main, [
    !some.length && emptyState(),
    page.earlier,
    page.thread,
    form(page, controls, params.get('question') || ''),
  ]);
  drawThread(page, controls);
  drawEarlier(page);
}

function emptyState() {
  return h(
    'div',
    { class: 'empty' },
    h('p', {}, t('ask.empty')),
    h('a', { href: '#/documents', class: 'button primary' }, t('ask.empty.next')),
  );
}

/**
 * The controls of how to answer, `values()` of them, and `asked()`: what a question is sent with.
 * @param {any} chosen @param {string[]} arms @param {string[]} adapters @param {string | null} suggested
 */
function settings(chosen, arms, adapters, suggested) {
  const mode = armSelect(arms, chosen.mode);
  const adapter = adapterSelect(adapters, chosen.adapter);
  const topK = h('input', { type: 'number', min: '1', max: '50', value: chosen.top_k });
  const tokens = h('input', { type: 'number', min: '1', max: '8192', value: chosen.max_tokens });
  const method = select(
    METHODS.map((name) => [name, t(`method.${name}`)]),
    chosen.method,
  );
  const rate = h('input', {
    type: 'number',
    min: '0.01',
    max: '1',
    step: 'any',
    value: chosen.max_false_answer_rate ?? '',
    placeholder: t('ask.any'),
  });
  const values = () => ({
    mode: mode.value,
    adapter: adapter.value || null,
    top_k: Number(topK.value) || 4,
    max_tokens: Number(tokens.value) || 256,
    method: method.value,
    max_false_answer_rate: Number(rate.value) || null,
  });
  const element = h(
    'div',
    { class: 'grid' },
    field(t('ask.mode'), mode),
    field(t('ask.adapter'), adapter),
    field(t('ask.top_k'), topK),
    field(t('ask.method'), method),
    field(t('ask.max_tokens'), tokens),
    field(t('ask.rate'), rate),
  );
  // The bare starter cites nothing: where all is left open the suggestion is sent, and it stays nobody's choice.
  const asked = () => ({ ...values(), adapter: values().adapter || suggestionFor(values(), suggested) });
  const nameUnnamed = () => sayWhatNoneMeans(adapter, suggestionFor(values(), suggested));
  nameUnnamed();
  element.addEventListener('input', nameUnnamed);
  element.addEventListener('change', () => remember('ask', values()));
  return { element, values, asked };
}

/** A share of false answers is kept by the arm that was calibrated. @param {any} values @param {string | null} suggested */
function suggestionFor(values, suggested) {
  return values.mode === 'auto' && !values.max_false_answer_rate ? suggested : null;
}

/** @param {any} page @param {any} controls @param {string} question */
function form(page, controls, question) {
  const input = h('textarea', { rows: '2', required: true, placeholder: t('ask.placeholder'), dir: 'auto' }, question);
  const send = h('button', { class: 'primary' }, t('ask.send'));
  const stop = button(t('ask.stop'), () => page.running?.abort(), { hidden: true });
  const anew = button(t('ask.new'), () => {
    page.running?.abort();
    startAnew();
    page.turns = [];
    drawThread(page, controls);
    drawEarlier(page);
    input.focus();
  });
  const submit = async () => {
    const text = input.value.trim();
    if (!text || page.running) return;
    input.value = '';
    [send.disabled, stop.hidden] = [true, false];
    await answer(page, controls, text);
    [send.disabled, stop.hidden] = [false, true];
    if (!page.view.signal.aborted) input.focus({ preventScroll: true });
  };
  input.addEventListener('keydown', (event) => {
    if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      submit();
    }
  });
  page.ask = (text) => {
    input.value = text;
    submit();
  };
  return h(
    'form',
    {
      class: 'ask',
      on: {
        submit: (event) => {
          event.preventDefault();
          submit();
        },
      },
    },
    field(t('ask.question'), input, t('ask.keys')),
    h('div', { class: 'row' }, send, stop, anew),
    h('details', {}, h('summary', {}, t('ask.settings')), controls.element, armHelp()),
  );
}

/** @param {any} page @param {any} controls */
function drawThread(page, controls) {
  fill(
    page.thread,
    page.turns.map((turn) => turnElement(page, controls, turn)),
  );
}

/** @param {any} page @param {any} controls @param {import('../components/conversation.js').Turn} turn @param {any} [failure] */
function turnElement(page, controls, turn, failure) {
  return h(
    'article',
    { class: 'turn' },
    h('h2', {}, foreign(turn.question)),
    turn.answer ? answered(page, controls, turn.question, turn.answer) : unanswered(page, controls, turn, failure),
  );
}

/** @param {any} page @param {any} controls @param {string} question @param {import('../api.js').Answer} answer */
function answered(page, controls, question, answer) {
  return [
    answer.abstained && h('p', { class: 'badge warning' }, t('answer.abstained')),
    answerText(answer),
    answer.abstained && h('p', { class: 'hint' }, tOr(`answer.abstained.${answer.abstained_by || 'model'}`, '')),
    citationList(answer),
    answerFacts(answer),
    passageList(answer.passages),
    feedback(answer, shareButton(question, controls.values().mode, page.collection)),
  ];
}

/** @param {any} page @param {any} controls @param {import('../components/conversation.js').Turn} turn @param {any} failure */
function unanswered(page, controls, turn, failure) {
  const again = () => {
    page.turns.splice(page.turns.indexOf(turn), 1);
    drawThread(page, controls);
    page.ask(turn.question);
  };
  return [
    turn.text && foreign(turn.text, 'div', 'answer-text'),
    failure ? problemBox(failure) : h('p', { class: 'hint' }, t('ask.stopped')),
    button(t('ask.again'), again),
  ];
}

/** Ask, draw what comes as it comes, and keep it. @param {any} page @param {any} controls @param {string} question */
async function answer(page, controls, question) {
  const { view, turns } = page;
  const running = (page.running = new AbortController());
  const leave = () => running.abort();
  view.signal.addEventListener('abort', leave);
  const body = { question, collection: page.collection, history: history(turns), ...controls.asked() };
  /** @type {import('../components/conversation.js').Turn} */
  const turn = { question, text: '', state: 'running', answer: null };
  turns.push(turn);
  keep(turns);
  const text = h('div', { class: 'answer-text', dir: 'auto' });
  const passages = h('div');
  const element = h(
    'article',
    { class: 'turn', 'aria-busy': 'true' },
    h('h2', {}, foreign(question)),
    h('p', { class: 'hint working' }, t('ask.working')),
    text,
    passages,
  );
  page.thread.append(element);
  element.scrollIntoView({ block: 'nearest' });
  let failure = null;
  try {
    for await (const event of ask(body, running.signal)) {
      if (event.event === 'passages') fill(passages, passageList(event.data.passages));
      else if (event.event === 'token') addToken(turn, text, event.data.text);
      else turn.answer = event.data;
    }
  } catch (error) {
    failure = isAbort(error) ? null : error;
  } finally {
    view.signal.removeEventListener('abort', leave);
    page.running = null;
  }
  turn.state = turn.answer ? 'done' : 'stopped';
  if (page.turns !== turns) return; // another conversation was begun meanwhile
  keep(turns);
  if (view.signal.aborted) return;
  element.replaceWith(turnElement(page, controls, turn, failure));
  announce(turn.answer ? `${t('ask.ready')} ${turn.answer.answer}` : t('ask.stopped'));
}

/** @param {import('../components/conversation.js').Turn} turn @param {HTMLElement} place @param {string} token */
function addToken(turn, place, token) {
  turn.text += token;
  append(place, token);
}

/** A link that asks the same: question, mode and collection are in the fragment, which no server sees. */
function shareButton(question, mode, collection) {
  const place = h('p', { class: 'hint', hidden: true });
  const share = async () => {
    const url = `${location.origin}/#/ask?${new URLSearchParams({ question, mode, collection })}`;
    place.hidden = false;
    try {
      await navigator.clipboard.writeText(url);
      fill(place, t('share.copied'));
      announce(t('share.copied'));
    } catch {
      const input = h('input', { readonly: true, value: url, 'aria-label': t('share.link') });
      fill(place, input);
      input.select();
    }
  };
  return [button(t('share.link'), share), place];
}

/** The conversations before this one. @param {any} page */
function drawEarlier(page) {
  const before = conversations()
    .slice(0, -1)
    .filter((turns) => turns.length);
  const goBack = (at) => () => {
    goBackTo(at);
    window.dispatchEvent(new HashChangeEvent('hashchange'));
  };
  fill(
    page.earlier,
    before.length > 0 &&
      h(
        'details',
        {},
        h('summary', {}, t('ask.earlier', { n: before.length })),
        h(
          'ul',
          {},
          before.map((turns, at) => h('li', {}, button(turns[0].question, goBack(at), { class: 'link' }))),
        ),
      ),
  );
}
