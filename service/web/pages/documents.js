/** *Documents*: what is indexed, adding to it, and the generations of the index. */

import { documents, index } from '../api.js';
import { jobPanel } from '../components/job.js';
import { attempt, problemBox } from '../components/problem.js';
import { openSource } from '../components/source.js';
import { isMeant, sendFiles, sentFiles } from '../components/uploads.js';
import { announce, append, button, dialog, field, fill, foreign, h, table } from '../dom.js';
import { date, number, size, t } from '../i18n.js';

/** @param {import('../app.js').View} view */
export default async function documentsPage(view) {
  const list = h('section', { 'aria-label': t('documents.list') });
  const generations = h('section', { 'aria-label': t('index.title') });
  const page = {
    view,
    list,
    generations,
    place: h('div'),
    refresh: () => Promise.all([drawList(page), drawIndex(page)]),
  };
  append(view.main, [uploadForm(page), list, generations, page.place]);
  await page.refresh();
}

/** @param {any} page */
function uploadForm(page) {
  const { view } = page;
  const collection = h('input', { value: view.collection, maxlength: '64' });
  const tags = h('input', { placeholder: t('documents.tags.example') });
  const place = h('div');
  const send = async (files) => {
    const meant = files.filter(isMeant);
    if (!meant.length) return;
    const about = {
      collection: collection.value.trim() || 'default',
      tags: tags.value
        .split(',')
        .map((tag) => tag.trim())
        .filter(Boolean),
    };
    try {
      await sendFiles(meant, about);
      announce(t('documents.done'));
      window.dispatchEvent(new Event('collections-changed'));
      if (!view.signal.aborted) await page.refresh();
    } catch (error) {
      if (!view.signal.aborted) place.append(problemBox(error));
    }
  };
  return h(
    'section',
    { class: 'card', 'aria-label': t('documents.add') },
    h('h2', {}, t('documents.add')),
    dropZone(send),
    previewPicker(view.signal),
    h(
      'details',
      {},
      h('summary', {}, t('documents.options')),
      h(
        'div',
        { class: 'grid' },
        field(t('documents.collection'), collection, t('documents.collection.hint')),
        field(t('documents.tags'), tags, t('documents.tags.hint')),
      ),
    ),
    sentFiles(),
    place,
  );
}

/** @param {(files: File[]) => void} send */
function dropZone(send) {
  const pick = (props) =>
    h('input', {
      type: 'file',
      multiple: true,
      class: 'unseen',
      tabindex: '-1',
      ...props,
      on: {
        change: (event) => {
          send([...event.target.files]);
          event.target.value = '';
        },
      },
    });
  const [files, folder] = [
    pick({ 'aria-label': t('documents.pick') }),
    pick({ webkitdirectory: true, 'aria-label': t('documents.folder') }),
  ];
  const over = (on) => (event) => {
    event.preventDefault();
    zone.classList.toggle('over', on);
  };
  const zone = h(
    'div',
    {
      class: 'drop',
      on: {
        dragover: over(true),
        dragleave: over(false),
        drop: async (event) => {
          over(false)(event);
          send(await droppedFiles(event.dataTransfer));
        },
      },
    },
    h('p', {}, t('documents.drop')),
    h(
      'div',
      { class: 'row' },
      button(t('documents.pick'), () => files.click(), { class: 'primary' }),
      button(t('documents.folder'), () => folder.click()),
    ),
    files,
    folder,
  );
  return zone;
}

/** The files of a drop, those within folders too, with their paths. @param {DataTransfer} transfer @returns {Promise<File[]>} */
async function droppedFiles(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return [...transfer.files];
  return (await Promise.all(entries.map((entry) => filesIn(entry, '')))).flat();
}

/** @param {any} entry @param {string} folder @returns {Promise<File[]>} */
async function filesIn(entry, folder) {
  const path = folder ? `${folder}/${entry.name}` : entry.name;
  if (entry.name.startsWith('.')) return [];
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    return [Object.assign(file, { path })];
  }
  const reader = entry.createReader();
  /** @type {any[]} */
  const children = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject)); // at most 100 a call
    if (!some.length) return (await Promise.all(children.map((child) => filesIn(child, path)))).flat();
    children.push(...some);
  }
}

/** Show the chunks of a file before anything is stored. @param {AbortSignal} signal */
function previewPicker(signal) {
  const place = h('div');
  const chunkSize = h('input', { type: 'number', min: '1', max: '100000', placeholder: t('preview.default') });
  const input = h('input', { type: 'file', class: 'unseen', tabindex: '-1', 'aria-label': t('preview.pick') });
  const pick = button(t('preview.pick'), () => input.click());
  input.addEventListener('change', () =>
    attempt(pick, place, async () => {
      const [file] = input.files;
      const form = new FormData();
      form.append('file', file);
      if (chunkSize.value) form.append('chunk_size', chunkSize.value);
      input.value = '';
      const found = await documents.preview(form, signal);
      chunksDialog(
        `${found.source} – ${t('preview.count', { n: found.chunks.length, size: found.chunk_size })}`,
        found.chunks,
      );
    }),
  );
  return h(
    'details',
    {},
    h('summary', {}, t('preview.title')),
    h('p', { class: 'hint' }, t('preview.why')),
    h('div', { class: 'row end' }, field(t('preview.size'), chunkSize), pick),
    input,
    place,
  );
}

/** @param {string} title @param {any[]} chunks */
function chunksDialog(title, chunks) {
  dialog(
    title,
    h(
      'ol',
      { class: 'chunks' },
      chunks.map((chunk) =>
        h(
          'li',
          {},
          h(
            'p',
            { class: 'hint' },
            foreign([chunk.heading, chunk.page && t('source.page', { n: chunk.page })].filter(Boolean).join(' · ')),
          ),
          foreign(chunk.text, 'p', 'text'),
        ),
      ),
    ),
    t('app.close'),
  );
}

/** @param {any} page */
async function drawList(page) {
  const { view, list } = page;
  let cursor = null;
  const load = async () => {
    const source = page.filter ? `*${page.filter}*` : '';
    const found = await documents.list({ collection: view.collection, source, cursor, limit: 50 }, view.signal);
    cursor = found.next_cursor;
    more.hidden = !cursor;
    return found.documents.map((row) => documentRow(page, row));
  };
  const place = h('div');
  const more = button(
    t('app.more'),
    () => attempt(more, place, async () => append(shown.querySelector('tbody'), await load())),
    { hidden: true },
  );
  const filter = h('input', { type: 'search', placeholder: t('documents.filter.example'), value: page.filter || '' });
  const rows = await load();
  const shown = table(
    t('documents.list'),
    [t('documents.name'), t('documents.chunks'), t('documents.size'), t('documents.added'), ''],
    rows,
  );
  fill(
    list,
    h('h2', {}, t('documents.list')),
    h(
      'form',
      {
        class: 'row end',
        on: {
          submit: (event) => {
            event.preventDefault();
            page.filter = filter.value.trim();
            drawList(page);
          },
        },
      },
      field(t('documents.filter'), filter),
      h('button', {}, t('documents.find')),
    ),
    rows.length ? shown : h('p', { class: 'empty' }, t(page.filter ? 'documents.none' : 'documents.empty')),
    more,
    place,
  );
}

/** @param {any} page @param {any} row */
function documentRow(page, row) {
  const place = h('div');
  const drop = (event) => {
    if (!window.confirm(t('documents.delete.sure', { name: row.source }))) return;
    attempt(event.currentTarget, place, async () => {
      const { adapters } = await documents.remove(row.id);
      if (adapters.length) {
        const names = adapters.map((each) => each.adapter).join(', ');
        dialog(
          t('documents.deleted', { name: row.source }),
          h('p', {}, t('documents.delete.adapters', { names })),
          t('app.close'),
        );
      }
      announce(t('documents.deleted', { name: row.source }));
      await page.refresh();
    });
  };
  const open = () =>
    openSource({
      document_id: row.id,
      source: row.source,
      title: row.title,
      heading: '',
      page: null,
      start: 0,
      end: 0,
    });
  const chunks = (event) =>
    attempt(event.currentTarget, place, async () => {
      const found = await documents.chunks(row.id, page.view.signal);
      chunksDialog(`${row.source} – ${t('documents.chunks.count', { n: found.chunks.length })}`, found.chunks);
    });
  return h(
    'tr',
    {},
    h(
      'td',
      {},
      button(row.title || row.source, open, { class: 'link' }),
      row.title && row.title !== row.source && foreign(row.source, 'div', 'hint'),
      row.tags.map((tag) => h('span', { class: 'badge' }, tag)),
      place,
    ),
    h('td', { class: 'n' }, number(row.chunks)),
    h('td', { class: 'n minor' }, size(row.size)),
    h('td', { class: 'minor' }, date(row.created_at)),
    h(
      'td',
      { class: 'row' },
      button(t('documents.chunks'), chunks, { 'aria-label': t('documents.chunks.of', { name: row.source }) }),
      button(t('app.delete'), drop, { class: 'danger', 'aria-label': t('documents.delete.of', { name: row.source }) }),
    ),
  );
}

/** @param {any} page */
async function drawIndex(page) {
  const { view, generations, place } = page;
  const status = await index.status(view.collection, view.signal);
  if (!status.generations.length) {
    fill(generations);
    return;
  }
  const rebuild = button(t('index.rebuild'), (event) =>
    attempt(event.currentTarget, place, async () => {
      const { job_id: jobId } = await index.rebuild(view.collection);
      const panel = jobPanel(jobId, t('job.kind.rebuild'), view.signal);
      place.append(panel.element);
      await panel.ended;
      await drawIndex(page);
    }),
  );
  const rollback = button(t('index.rollback'), (event) => {
    if (window.confirm(t('index.rollback.sure')))
      attempt(event.currentTarget, place, async () => {
        await index.rollback(view.collection);
        await drawIndex(page);
      });
  });
  fill(
    generations,
    h('h2', {}, t('index.title')),
    h(
      'p',
      {},
      t('index.state', {
        documents: number(status.documents),
        chunks: number(status.chunks),
        generation: status.generation ?? '–',
      }),
      ' ',
      h(
        'span',
        { class: `badge ${status.up_to_date ? 'succeeded' : 'warning'}` },
        t(status.up_to_date ? 'index.fresh' : 'index.old'),
      ),
    ),
    h('p', { class: 'hint' }, t('index.embedder', { name: status.embedder || '–' })),
    table(
      t('index.title'),
      [t('index.generation'), t('index.status'), t('index.made')],
      status.generations
        .slice(-10)
        .reverse()
        .map((row) =>
          h(
            'tr',
            {},
            h('td', {}, number(row.number)),
            h('td', {}, row.current ? h('strong', {}, t('index.current')) : row.status),
            h('td', {}, date(row.created_at)),
          ),
        ),
    ),
    h('div', { class: 'row' }, rebuild, status.generations.length > 1 && rollback),
  );
}
