/** Pairs in and out: made from the documents, imported, exported, and what they cover. */

import { pairs } from '../api.js';
import { button, checkbox, field, fill, foreign, h, select, table } from '../dom.js';
import { number, percent, t } from '../i18n.js';
import { jobPanel } from './job.js';
import { attempt } from './problem.js';

/** @param {any} page with `view` and `refresh` */
export function generateForm(page) {
  const { view } = page;
  const place = h('div');
  const limit = h('input', { type: 'number', min: '1', max: '100000', value: '100' });
  const start = h('button', { class: 'primary' }, t('pairs.generate'));
  const run = () =>
    attempt(start, place, async () => {
      const { job_id: jobId } = await pairs.generate({ collection: view.collection, limit: Number(limit.value) });
      const panel = jobPanel(jobId, t('job.kind.pairs'), view.signal);
      place.append(panel.element);
      const end = await panel.ended;
      if (!end) return;
      place.append(
        h('p', {}, t('pairs.ledger', { accepted: end.outputs.accepted ?? 0, requested: end.outputs.requested ?? 0 })),
      );
      await page.refresh();
    });
  return h(
    'form',
    {
      on: {
        submit: (event) => {
          event.preventDefault();
          run();
        },
      },
    },
    h('h3', {}, t('pairs.generate')),
    h('p', { class: 'hint' }, t('pairs.generate.why')),
    h('div', { class: 'row end' }, field(t('pairs.limit'), limit), start),
    place,
  );
}

/** @param {any} page */
export function importForm(page) {
  const { view } = page;
  const place = h('div');
  const style = checkbox(t('pairs.style'));
  const input = h('input', {
    type: 'file',
    accept: '.jsonl,.json',
    class: 'unseen',
    tabindex: '-1',
    'aria-label': t('pairs.import'),
  });
  const pick = button(t('pairs.import'), () => input.click());
  input.addEventListener('change', () =>
    attempt(pick, place, async () => {
      const form = new FormData();
      form.append('file', input.files[0]);
      form.append('collection', view.collection);
      form.append('style', String(style.querySelector('input').checked));
      input.value = '';
      const { job_id: jobId } = await pairs.import(form, view.signal);
      const panel = jobPanel(jobId, t('job.kind.import_pairs'), view.signal);
      place.append(panel.element);
      const end = await panel.ended;
      if (!end) return;
      place.append(importResult(end.outputs));
      await page.refresh();
    }),
  );
  return h(
    'div',
    {},
    h('h3', {}, t('pairs.import')),
    h('p', { class: 'hint' }, t('pairs.import.why')),
    h('div', { class: 'row' }, style, pick),
    input,
    place,
  );
}

/** @param {any} outputs */
function importResult({ imported = 0, known = 0, failed = [], failed_count: count = 0 }) {
  return h(
    'div',
    {},
    h('p', {}, t('pairs.imported', { imported, known, failed: count })),
    failed.length > 0 &&
      h(
        'ul',
        {},
        failed
          .slice(0, 20)
          .map((row) =>
            h('li', {}, foreign([row.source ?? row.row ?? row.id, row.detail, row.hint].filter(Boolean).join(' · '))),
          ),
      ),
  );
}

/** @param {any} page */
export function exportForm(page) {
  const { view } = page;
  const place = h('div');
  const format = select(
    ['chat', 'instruction', 'sharegpt'].map((name) => [name, name]),
    'chat',
  );
  const split = select(
    [
      ['train', t('pairs.train')],
      ['eval', t('pairs.eval')],
    ],
    'train',
  );
  const start = button(t('pairs.export'), () =>
    attempt(start, place, async () => {
      const chosen = { collection: view.collection, format: format.value, split: split.value };
      const found = await pairs.export(chosen).catch(async (error) => {
        if (error.status !== 409) throw error;
        const { job_id: jobId } = await pairs.startExport(view.collection);
        const panel = jobPanel(jobId, t('job.kind.export_pairs'), view.signal);
        place.append(panel.element);
        await panel.ended;
        return pairs.export(chosen);
      });
      download(found, `${chosen.split}.${chosen.format}.jsonl`);
    }),
  );
  return h(
    'div',
    {},
    h('h3', {}, t('pairs.export')),
    h('p', { class: 'hint' }, t('pairs.export.why')),
    h('div', { class: 'row end' }, field(t('pairs.format'), format), field(t('pairs.split'), split), start),
    place,
  );
}

/** @param {Blob} content @param {string} name */
export function download(content, name) {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(content);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

/** What the pairs cover of each document. @param {any} page */
export function coverageTable(page) {
  const { view } = page;
  const place = h('div');
  let cursor = null;
  const rows = [];
  const load = button(t('coverage.show'), () =>
    attempt(load, place, async () => {
      const found = await pairs.coverage({ collection: view.collection, cursor, limit: 50 }, view.signal);
      cursor = found.next_cursor;
      rows.push(...found.documents.map(coverageRow));
      fill(
        shown,
        rows.length
          ? table(
              t('coverage.title'),
              [t('documents.name'), t('coverage.accepted'), t('coverage.chunks'), t('coverage.share')],
              rows,
            )
          : t('documents.empty'),
      );
      fill(load, t('app.more'));
      load.hidden = !cursor;
    }),
  );
  const shown = h('div');
  return h(
    'div',
    {},
    h('h3', {}, t('coverage.title')),
    h('p', { class: 'hint' }, t('coverage.why')),
    shown,
    load,
    place,
  );
}

/** @param {any} row */
function coverageRow(row) {
  return h(
    'tr',
    {},
    h('td', {}, foreign(row.title || row.source)),
    h('td', { class: 'n' }, `${number(row.accepted)} / ${number(row.pairs)}`),
    h('td', { class: 'n' }, `${number(row.chunks_with_pairs)} / ${number(row.chunks)}`),
    h(
      'td',
      {},
      h('meter', { max: 1, value: row.information_share, 'aria-label': t('coverage.share') }),
      ' ',
      percent(row.information_share),
    ),
  );
}
