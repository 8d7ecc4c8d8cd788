/** A job's events as a log that grows while the job runs. */

import { followJob, isAbort } from '../api.js';
import { h } from '../dom.js';
import { date } from '../i18n.js';
import { progressText, statusName } from './job.js';
import { problemBox } from './problem.js';

const MOST_LINES = 500;

/** @param {string} jobId @param {HTMLElement} place @param {AbortSignal} signal */
export async function readLog(jobId, place, signal) {
  const lines = h('ol', { class: 'log', tabindex: '0' });
  place.append(lines);
  try {
    for await (const event of followJob(jobId, signal)) {
      lines.append(
        h(
          'li',
          {},
          `${date(event.at)}  ${statusName(event.status)}  ${progressText(event.progress)}${metricsText(event.progress.metrics)}`,
        ),
      );
      if (lines.children.length > MOST_LINES) lines.firstElementChild?.remove();
    }
  } catch (error) {
    if (!isAbort(error)) place.append(problemBox(error));
  }
}

/** @param {Record<string, any>} metrics */
function metricsText(metrics = {}) {
  const shown = ['loss', 'eval_loss', 'tokens_per_s'].filter((name) => typeof metrics[name] === 'number');
  return shown.map((name) => `  ${name} ${metrics[name].toPrecision(4)}`).join('');
}
