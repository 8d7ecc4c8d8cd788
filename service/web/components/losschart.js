/** The loss of a training run as it falls: a line over the optimizer steps, drawn as it comes. */

import { fill, h } from '../dom.js';
import { number, t } from '../i18n.js';

const [WIDTH, HEIGHT, EDGE] = [480, 140, 6];

/** Returns the element and `add`, which takes a job event's progress. */
export function lossChart() {
  /** @type {[number, number][]} */
  const points = [];
  const line = h('polyline', { fill: 'none', class: 'loss', points: '' });
  const chart = h(
    'svg',
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: 'img', 'aria-label': t('adapters.loss'), class: 'chart' },
    line,
  );
  const words = h('p', { class: 'hint' });
  const element = h('div', { hidden: true }, chart, words);

  /** @param {import('../api.js').Progress} progress */
  const add = (progress) => {
    const { loss, step, eval_loss: held, tokens_per_s: speed } = progress.metrics || {};
    if (typeof loss !== 'number' || (points.length && points.at(-1)?.[0] === step)) return;
    points.push([step, loss]);
    element.hidden = false;
    line.setAttribute('points', scaled(points, progress.total));
    fill(
      words,
      t('adapters.loss.now', { step: number(step), loss: number(loss, 3) }),
      typeof held === 'number' && [' · ', t('adapters.loss.held', { loss: number(held, 3) })],
      typeof speed === 'number' && [' · ', t('adapters.speed', { n: number(speed) })],
    );
  };
  return { element, add };
}

/** @param {[number, number][]} points @param {number} steps */
function scaled(points, steps) {
  const losses = points.map(([, loss]) => loss);
  const [low, high] = [Math.min(...losses), Math.max(...losses)];
  const x = (step) => EDGE + (step / Math.max(steps, 1)) * (WIDTH - 2 * EDGE);
  const y = (loss) => EDGE + ((high - loss) / (high - low || 1)) * (HEIGHT - 2 * EDGE);
  return points.map(([step, loss]) => `${x(step).toFixed(1)},${y(loss).toFixed(1)}`).join(' ');
}
