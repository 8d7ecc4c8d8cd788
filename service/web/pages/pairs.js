/** *Pairs*: the review queue. One pair beside its passage, decided by a key; many at once by a filter. */

import { pairs } from '../api.js';
import { pairBadges, pairFacts, pairForm, pairPassages } from '../components/pair.js';
import { coverageTable, exportForm, generateForm, importForm } from '../components/pairfiles.js';
import { attempt } from '../components/problem.js';
import { announce, append, button, checkbox, field, fill, foreign, h, select } from '../dom.js';
import { number, t } from '../i18n.js';
import { preferred, prefer } from '../session.js';

const STATUSES = ['candidate', 'accepted', 'rejected'];
const KINDS = ['span', 'free', 'multi', 'unanswerable', 'style'];

/** @param {import('../app.js').View} view */
export default async function pairsPage(view) {
  const page = {
    view,
    found: [],
    cursor: null,
    at: 0,
    picked: new Set(),
    decided: [],
    editing: false,
    filter: { status: 'candidate' },
    list: h('ol', { class: 'pairs' }),
    detail: h('section', { class: 'card detail', 'aria-label': t('pairs.one') }),
    place: h('div'),
    refresh: () => load(page),
  };
  const files = h(
    'details',
    { class: 'card' },
    h('summary', {}, t('pairs.files')),
    generateForm(page),
    importForm(page),
    exportForm(page),
    coverageTable(page),
  );
  append(view.main, [
    filters(page),
    bulkBar(page),
    page.place,
    h('div', { class: 'review' }, h('div', {}, page.list, moreButton(page)), page.detail),
    files,
  ]);
  document.addEventListener('keydown', (event) => onKey(page, event), { signal: view.signal });
  await load(page);
  files.open = !page.found.length;
}

/** @param {any} page */
function filters(page) {
  const status = select(
    [['', t('app.all')], ...STATUSES.map((name) => [name, t(`pair.status.${name}`)])],
    page.filter.status,
  );
  const kind = select([['', t('app.all')], ...KINDS.map((name) => [name, t(`pair.kind.${name}`)])], '');
  const source = h('input', { type: 'search' });
  const text = h('input', { type: 'search' });
  const stale = checkbox(t('pair.stale'));
  const apply = () => {
    page.filter = {
      status: status.value,
      kind: kind.value,
      text: text.value.trim(),
      source: source.value.trim() && `*${source.value.trim()}*`,
      stale: stale.querySelector('input').checked ? true : '',
    };
    load(page);
  };
  return h(
    'form',
    {
      class: 'row end',
      on: {
        change: apply,
        submit: (event) => {
          event.preventDefault();
          apply();
        },
      },
    },
    field(t('pairs.status'), status),
    field(t('pairs.kind'), kind),
    field(t('pairs.text'), text),
    field(t('pairs.source'), source),
    stale,
  );
}

/** Decisions about the pairs that are ticked, or about all that the filter shows. @param {any} page */
function bulkBar(page) {
  const count = h('span', { role: 'status' });
  const decide = (status) => (event) =>
    attempt(event.currentTarget, page.place, async () => {
      const chosen = page.picked.size
        ? { ids: [...page.picked] }
        : { filter: Object.fromEntries(Object.entries(page.filter).filter(([, value]) => value !== '')) };
      const body = { collection: page.view.collection, status, ...chosen };
      const { pairs: n } = await pairs.bulk({ ...body, dry_run: true });
      if (!n || !window.confirm(t(`pairs.bulk.${status}.sure`, { n: number(n) }))) return;
      const done = await pairs.bulk(body);
      page.decided.push({ review: done.review_id });
      announce(t('pairs.bulk.done', { n: done.changed.length }));
      await load(page);
    });
  page.drawCount = () => fill(count, t('pairs.picked', { n: page.picked.size }));
  const shortcuts = checkbox(t('pairs.shortcuts'), {
    checked: preferred('shortcuts', true),
    on: { change: (event) => prefer('shortcuts', event.target.checked) },
  });
  return h(
    'div',
    { class: 'row bulk' },
    count,
    button(t('pairs.bulk.accept'), decide('accepted')),
    button(t('pairs.bulk.reject'), decide('rejected')),
    button(t('pair.undo'), (event) => undo(page, event.currentTarget)),
    shortcuts,
  );
}

/** @param {any} page */
function moreButton(page) {
  page.more = button(t('app.more'), () => attempt(page.more, page.place, () => loadMore(page)), { hidden: true });
  return page.more;
}

/** @param {any} page */
async function load(page) {
  Object.assign(page, { found: [], cursor: null, at: 0, editing: false });
  page.picked.clear();
  await loadMore(page);
}

/** @param {any} page */
async function loadMore(page) {
  const asked = page.filter;
  const found = await pairs.list(
    { collection: page.view.collection, ...asked, cursor: page.cursor, limit: 50 },
    page.view.signal,
  );
  if (asked !== page.filter) return; // another filter was chosen meanwhile
  page.found.push(...found.pairs);
  page.cursor = found.next_cursor;
  page.more.hidden = !page.cursor;
  drawList(page);
  drawDetail(page);
}

/** @param {any} page */
function drawList(page) {
  page.drawCount();
  fill(
    page.list,
    page.found.map((pair, at) =>
      h(
        'li',
        { 'aria-current': at === page.at ? 'true' : null },
        h('input', {
          type: 'checkbox',
          'aria-label': t('pairs.pick', { question: pair.question }),
          checked: page.picked.has(pair.id),
          on: { change: () => pick(page, pair) },
        }),
        button(pair.question, () => choose(page, at), { class: 'link' }),
        h('div', {}, pairBadges(pair)),
      ),
    ),
  );
  if (!page.found.length) fill(page.list, h('li', { class: 'empty' }, t('pairs.empty')));
}

/** @param {any} page @param {any} pair */
function pick(page, pair) {
  if (!page.picked.delete(pair.id)) page.picked.add(pair.id);
  page.drawCount();
}

/** @param {any} page @param {number} at */
function choose(page, at) {
  page.at = Math.max(0, Math.min(at, page.found.length - 1));
  page.editing = false;
  drawList(page);
  drawDetail(page);
  page.list.children[page.at]?.scrollIntoView({ block: 'nearest' });
}

/** @param {any} page */
function drawDetail(page) {
  const pair = page.found[page.at];
  if (!pair) {
    fill(page.detail, h('p', { class: 'empty' }, t('pairs.empty.next')));
    return;
  }
  const passages = h('div', { class: 'beside' }, h('h3', {}, t('pair.passage')), pairPassages(pair));
  if (page.editing) {
    const { form, focus } = pairForm(
      pair,
      (changes) => change(page, pair, changes, t('pair.saved')),
      () => edit(page, false),
    );
    fill(page.detail, h('div', { class: 'columns' }, form, passages));
    focus();
    return;
  }
  const act = (key, run, cls = '') =>
    button(t(`pair.${key}`), run, { class: cls || null, 'aria-keyshortcuts': t(`pair.${key}.key`) });
  fill(
    page.detail,
    h(
      'div',
      { class: 'columns' },
      h(
        'div',
        {},
        h('h2', {}, foreign(pair.question)),
        h('p', { class: 'answer-text', dir: 'auto' }, pair.answer || t('pair.unanswerable')),
        pairFacts(pair),
        h(
          'div',
          { class: 'row' },
          act('accept', () => decide(page, 'accepted'), 'primary'),
          act('reject', () => decide(page, 'rejected')),
          act('edit', () => edit(page, true)),
          act('undo', (event) => undo(page, event.currentTarget)),
        ),
        h('p', { class: 'hint' }, t('pairs.keys')),
      ),
      passages,
    ),
  );
}

/** @param {any} page @param {boolean} on */
function edit(page, on) {
  page.editing = on;
  drawDetail(page);
}

/** @param {any} page @param {'accepted' | 'rejected'} status */
function decide(page, status) {
  const pair = page.found[page.at];
  if (pair) change(page, pair, { status }, t(`pair.now.${status}`));
}

/** Change a pair, show it as it is now, and go on to the next. @param {any} page @param {any} pair @param {any} changes @param {string} words */
async function change(page, pair, changes, words) {
  await attempt({}, page.place, async () => {
    const now = await pairs.change(pair.id, changes);
    page.decided.push({ pair: pair.id });
    page.found = page.found.map((each) => (each.id === now.id ? now : each));
    announce(words);
    choose(page, Math.min(page.at + 1, page.found.length - 1));
  });
}

/** Take the newest decision of this visit back. @param {any} page @param {any} control */
function undo(page, control) {
  return attempt(control, page.place, async () => {
    const last = page.decided.pop();
    if (!last) return announce(t('pair.undo.none'));
    announce(t('pair.undone'));
    if (last.review) {
      await pairs.undoReview(last.review);
      return load(page);
    }
    const now = await pairs.undo(last.pair);
    page.found = page.found.map((each) => (each.id === now.id ? now : each));
    const at = page.found.findIndex((each) => each.id === now.id);
    return at < 0 ? load(page) : choose(page, at);
  });
}

/** @param {any} page @param {KeyboardEvent} event */
function onKey(page, event) {
  const target = /** @type {HTMLElement} */ (event.target);
  const typing = target.closest('input:not([type=checkbox]), textarea, select, dialog');
  if (typing || event.ctrlKey || event.metaKey || event.altKey || !preferred('shortcuts', true)) return;
  const actions = {
    a: () => decide(page, 'accepted'),
    r: () => decide(page, 'rejected'),
    e: () => edit(page, true),
    u: () => undo(page, {}),
    j: () => choose(page, page.at + 1),
    k: () => choose(page, page.at - 1),
    x: () => {
      const pair = page.found[page.at];
      if (pair) {
        pick(page, pair);
        drawList(page);
      }
    },
  };
  const action = actions[event.key.toLowerCase()];
  if (!action || page.editing) return;
  event.preventDefault();
  action();
}
