/** A job as it goes: stage, progress, time left, cancel, and how it ended. */

import { followJob, isAbort, jobs } from '../api.js';
import { announce, button, fill, h } from '../dom.js';
import { duration, number, t, tOr } from '../i18n.js';
import { problemBox } from './problem.js';

/** @param {string} kind */
export const kindName = (kind) => tOr(`job.kind.${kind}`, kind);
/** @param {string} status */
export const statusName = (status) => tOr(`job.status.${status}`, status);

/** @param {string} status */
export const statusBadge = (status) => h('span', { class: `badge ${status}` }, statusName(status));

/** @param {import('../api.js').Progress} progress */
export function progressText(progress) {
  const parts = [progress.stage && tOr(`job.stage.${progress.stage}`, progress.stage)];
  if (progress.total) {
    parts.push(
      `${number(progress.done)} / ${number(progress.total)} ${tOr(`job.unit.${progress.unit}`, progress.unit)}`,
    );
  }
  if (progress.eta_s !== null && progress.eta_s !== undefined)
    parts.push(t('job.left', { time: duration(progress.eta_s) }));
  return parts.filter(Boolean).join(' · ');
}

/**
 * Follow a job and draw it. The promise `ended` gives its last event, null if the page was left before.
 * @param {string} jobId @param {string} title @param {AbortSignal} signal
 * @param {(event: import('../api.js').JobEvent) => void} [onEvent]
 */
export function jobPanel(jobId, title, signal, onEvent) {
  const state = h('p', { class: 'job-state' }, statusName('queued'));
  const bar = h('progress', { 'aria-label': title });
  const place = h('div');
  const cancel = button(t('job.cancel'), () => jobs.cancel(jobId).catch((error) => place.append(problemBox(error))));
  const element = h(
    'section',
    { class: 'job', 'aria-label': title },
    h('div', { class: 'row spread' }, h('strong', {}, title), cancel),
    bar,
    state,
    place,
  );

  /** @param {import('../api.js').JobEvent} event */
  const draw = (event) => {
    fill(state, statusName(event.status), progressText(event.progress) && ` · ${progressText(event.progress)}`);
    if (event.progress.total) {
      bar.max = event.progress.total;
      bar.value = event.progress.done;
    }
    onEvent?.(event);
  };
  const end = (event) => {
    cancel.remove();
    bar.remove();
    element.classList.add(event.status);
    fill(state, statusBadge(event.status));
    if (event.error) place.append(problemBox(event.error));
    announce(`${title}: ${statusName(event.status)}`);
  };
  const run = async () => {
    let last = null;
    try {
      for await (const event of followJob(jobId, signal)) {
        last = event;
        draw(event);
      }
      last ??= await jobs.get(jobId, signal);
      end(last);
      return last;
    } catch (error) {
      if (!isAbort(error)) place.append(problemBox(error));
      return null;
    }
  };
  return { element, ended: run() };
}
