/** Why an adapter may go live or not, and the log of what went live. */

import { adapters } from '../api.js';
import { button, dialog, fill, foreign, h, table } from '../dom.js';
import { date, number, percent, t, tOr } from '../i18n.js';
import { attempt } from './problem.js';

const VERDICTS = new Map([
  [true, 'ok'],
  [false, 'failed'],
  [null, 'warning'],
]);

/** Show every rule of the promotion policy with its figure, and what the shadow told. @param {string} label */
export async function showDecision(label) {
  const [decision, { shadow }] = await Promise.all([adapters.decision(label), adapters.get(label)]);
  const rows = decision.reasons.map((reason) =>
    h(
      'tr',
      {},
      h(
        'td',
        {},
        h('span', { class: `badge ${VERDICTS.get(reason.passed)}` }, t(`policy.${VERDICTS.get(reason.passed)}`)),
      ),
      h('td', {}, tOr(`policy.rule.${reason.rule}`, reason.rule)),
      h('td', {}, foreign(reason.figure)),
      h('td', {}, foreign(reason.bound)),
    ),
  );
  dialog(
    t('policy.of', { name: label }),
    [
      h('p', {}, t(decision.passed ? 'policy.passed' : 'policy.refused')),
      table(t('policy.of', { name: label }), ['', t('policy.rule'), t('policy.found'), t('policy.bound')], rows),
      shadow &&
        h(
          'p',
          {},
          t('policy.shadow', {
            n: number(shadow.answers),
            agreement: percent(shadow.agreement),
            abstained: percent(shadow.abstained),
            live: percent(shadow.live_abstained),
          }),
        ),
    ],
    t('app.close'),
  );
}

/** The append-only log of stages. @param {AbortSignal} signal */
export function stageLog(signal) {
  const place = h('div');
  const shown = h('div');
  const load = button(t('policy.log.show'), () =>
    attempt(load, place, async () => {
      const { promotions } = await adapters.promotions(signal);
      fill(
        shown,
        promotions.length
          ? table(
              t('policy.log'),
              [t('evaluations.when'), t('adapters.name'), t('policy.event'), t('policy.by')],
              promotions.map(line),
            )
          : t('lineage.none'),
      );
    }),
  );
  return h('section', {}, h('h2', {}, t('policy.log')), shown, load, place);
}

/** @param {any} row */
function line(row) {
  return h(
    'tr',
    {},
    h('td', {}, date(row.created_at)),
    h('td', {}, foreign(row.subject)),
    h('td', {}, `${row.event}: ${row.before || '–'} → ${row.after || '–'}`, row.reason && [' · ', foreign(row.reason)]),
    h('td', {}, foreign(row.actor || '–')),
  );
}
