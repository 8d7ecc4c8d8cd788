/** *Jobs*: what runs, what is left of it, and how it ended. */

import { isAbort, jobs } from '../api.js';
import { kindName, progressText, statusBadge } from '../components/job.js';
import { problemBox } from '../components/problem.js';
import { readLog } from '../components/log.js';
import { append, button, dialog, fill, h, table } from '../dom.js';
import { date, duration, t } from '../i18n.js';

const POLL_MS = 2000;

/** @param {import('../app.js').View} view */
export default async function jobsPage(view) {
  const list = h('section', { 'aria-label': t('nav.jobs') });
  const place = h('div');
  append(view.main, [place, list]);
  await draw(view, list, place);
  const poll = setInterval(
    () =>
      draw(view, list, place).catch(
        (error) => isAbort(error) || error.type === 'unreachable' || fill(place, problemBox(error)),
      ),
    POLL_MS,
  );
  view.signal.addEventListener('abort', () => clearInterval(poll));
}

/** @param {import('../app.js').View} view @param {HTMLElement} list @param {HTMLElement} place */
async function draw(view, list, place) {
  const found = (await jobs.list(view.signal)).jobs;
  const seen = JSON.stringify(found);
  if (list.dataset.seen === seen) return; // nothing new: what has the focus keeps it
  const focused = document.activeElement?.getAttribute('data-focus');
  list.dataset.seen = seen;
  if (!found.length) {
    fill(list, h('p', { class: 'empty' }, t('jobs.empty')));
    return;
  }
  fill(
    list,
    table(
      t('nav.jobs'),
      [t('jobs.kind'), t('jobs.status'), t('jobs.started'), t('jobs.took'), ''],
      found.map((job) => row(view, job, place)),
    ),
  );
  if (focused) /** @type {HTMLElement} */ (list.querySelector(`[data-focus="${CSS.escape(focused)}"]`))?.focus();
}

/** @param {import('../app.js').View} view @param {import('../api.js').Job} job @param {HTMLElement} place */
function row(view, job, place) {
  const open = ['queued', 'running', 'interrupted'].includes(job.status);
  const end = job.finished_at || Date.now() / 1000;
  const cancel = () =>
    jobs
      .cancel(job.id)
      .then(() => draw(view, /** @type {any} */ (view.main.lastElementChild), place))
      .catch((error) => fill(place, problemBox(error)));
  return h(
    'tr',
    {},
    h('td', {}, kindName(job.kind)),
    h(
      'td',
      {},
      statusBadge(job.status),
      open && [' ', progressText(job.progress)],
      job.status === 'running' &&
        job.progress.total > 0 &&
        h('progress', { max: job.progress.total, value: job.progress.done, 'aria-label': kindName(job.kind) }),
    ),
    h('td', { class: 'minor' }, date(job.started_at || job.created_at)),
    h('td', { class: 'minor' }, job.started_at && job.finished_at ? duration(end - job.started_at) : '–'),
    h(
      'td',
      { class: 'row' },
      button(t('jobs.details'), () => details(job), {
        'data-focus': `details-${job.id}`,
        'aria-label': t('jobs.details.of', { kind: kindName(job.kind) }),
      }),
      open && button(t('job.cancel'), cancel, { 'data-focus': `cancel-${job.id}` }),
    ),
  );
}

/** @param {import('../api.js').Job} job */
function details(job) {
  const log = h('div');
  const leave = new AbortController();
  const box = dialog(
    `${kindName(job.kind)} · ${job.id}`,
    [
      h('p', {}, statusBadge(job.status), ' ', progressText(job.progress)),
      job.error && problemBox(job.error),
      h('h3', {}, t('jobs.log')),
      log,
      h('h3', {}, t('jobs.inputs')),
      h('pre', { tabindex: '0' }, JSON.stringify(job.inputs, null, 1)),
      h('h3', {}, t('jobs.outputs')),
      h('pre', { tabindex: '0' }, JSON.stringify(job.outputs, null, 1)),
    ],
    t('app.close'),
  );
  box.addEventListener('close', () => leave.abort());
  readLog(job.id, log, leave.signal);
}
