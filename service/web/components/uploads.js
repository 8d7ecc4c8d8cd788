/**
 * Files on their way to a collection: sent in batches, each batch one job, each file with a state of its own. They go
 * on while another page is looked at, and a tab that is about to be closed asks first.
 */

import { documents, followJob } from '../api.js';
import { fill, foreign, h } from '../dom.js';
import { size, t } from '../i18n.js';
import { progressText } from './job.js';
import { problemBox } from './problem.js';

const BATCH_FILES = 20;
const BATCH_BYTES = 64 * 1024 * 1024;

const { signal } = new AbortController(); // nothing but the tab's end stops them
let running = 0;
/** @type {HTMLElement | null} */
let list = null;

/** The files of this tab and what became of them, whichever page they were sent from. @returns {HTMLElement} */
export function sentFiles() {
  list ??= h('ul', { class: 'files', 'aria-label': t('documents.sent') });
  return /** @type {HTMLElement} */ (list);
}

window.addEventListener('beforeunload', (event) => {
  if (running) event.preventDefault();
});

/** @typedef {{name: string, file: File, row: HTMLElement, state: HTMLElement, problem: HTMLElement}} Sent */

/**
 * A document is known by its file's name alone, so files of one name from different folders get the folders' too.
 * @param {File[]} files @returns {[string, File][]}
 */
export function namesOf(files) {
  const counts = new Map();
  for (const file of files) counts.set(file.name, (counts.get(file.name) || 0) + 1);
  return files.map((file) => {
    const path = file.webkitRelativePath || /** @type {any} */ (file).path || '';
    return [counts.get(file.name) > 1 && path ? path.split('/').join(' - ') : file.name, file];
  });
}

/** Files of a folder that no one means: hidden ones. @param {File} file */
export const isMeant = (file) =>
  !(file.webkitRelativePath || file.name).split('/').some((part) => part.startsWith('.'));

/**
 * Send the files one batch after the other and draw each one's state.
 * @param {File[]} files @param {{collection: string, tags: string[]}} about
 * @returns {Promise<void>} when all have ended, well or not
 */
export async function sendFiles(files, about) {
  const sent = namesOf(files).map(([name, file]) => drawFile(name, file));
  running += 1;
  for (const batch of batches(sent)) {
    try {
      await sendBatch(batch, about);
    } catch (error) {
      for (const one of batch) setState(one, 'failed', '', problemBox(error));
    }
  }
  running -= 1;
}

/** @param {string} name @param {File} file @returns {Sent} */
function drawFile(name, file) {
  const [state, problem] = [h('span', { class: 'badge' }, t('file.waiting')), h('div')];
  const row = h(
    'li',
    {},
    h('div', { class: 'row spread' }, foreign(name), h('span', { class: 'hint' }, size(file.size)), state),
    problem,
  );
  sentFiles().append(row);
  return { name, file, row, state, problem };
}

/** @param {Sent} one @param {string} state @param {string} [more] @param {HTMLElement | null} [problem] */
function setState(one, state, more = '', problem = null) {
  one.state.className = `badge ${state}`;
  fill(one.state, t(`file.${state}`), more && ` · ${more}`);
  fill(one.problem, problem);
}

/** @param {Sent[]} sent @returns {Sent[][]} */
function batches(sent) {
  /** @type {Sent[][]} */
  const made = [];
  let bytes = 0;
  for (const one of sent) {
    const last = made.at(-1);
    const full = !last || last.length >= BATCH_FILES || bytes + one.file.size > BATCH_BYTES;
    if (full || last.some((other) => other.name === one.name)) {
      made.push([one]);
      bytes = one.file.size;
    } else {
      last.push(one);
      bytes += one.file.size;
    }
  }
  return made;
}

/** @param {Sent[]} batch @param {{collection: string, tags: string[]}} about */
async function sendBatch(batch, about) {
  const form = new FormData();
  form.append('collection', about.collection);
  for (const tag of about.tags) form.append('tags', tag);
  for (const one of batch) form.append('files', one.file, one.name);
  const uploading = (share) => batch.forEach((one) => setState(one, 'uploading', `${Math.round(share * 100)} %`));
  uploading(0);
  const { job_id: jobId } = await documents.upload(form, signal, uploading);
  let last = null;
  for await (const event of followJob(jobId, signal)) {
    last = event;
    batch.forEach((one) =>
      setState(one, event.status === 'queued' ? 'queued' : 'indexing', progressText(event.progress)),
    );
  }
  if (last) settle(batch, last);
}

/** Tell each file what became of it. @param {Sent[]} batch @param {import('../api.js').JobEvent} end */
function settle(batch, end) {
  const { indexed = [], unchanged = [], failed = [] } = end.outputs;
  const bySource = (rows) => new Map(rows.map((row) => [row.source ?? row, row]));
  const [done, same, broken] = [indexed, unchanged, failed].map(bySource);
  for (const one of batch) {
    const [new_, old, bad] = [done.get(one.name), same.get(one.name), broken.get(one.name)];
    if (new_) setState(one, 'indexed', t('file.chunks', { n: new_.chunks }));
    else if (old) setState(one, 'unchanged');
    else if (bad || end.error) setState(one, 'failed', '', problemBox(bad || end.error));
    else setState(one, end.status);
  }
}
