/** *Adapters*: train one, see what it rests on and what it cost, put it live, take it back. */

import { adapters } from '../api.js';
import { jobPanel } from '../components/job.js';
import { lossChart } from '../components/losschart.js';
import { showDecision, stageLog } from '../components/policy.js';
import { attempt } from '../components/problem.js';
import { announce, append, button, checkbox, dialog, field, fill, foreign, form, h, select } from '../dom.js';
import { number, percent, t, tOr } from '../i18n.js';

const KNOBS = ['num_train_epochs', 'learning_rate', 'r', 'seed'];

/** @param {import('../app.js').View} view */
export default async function adaptersPage(view) {
  const page = {
    view,
    list: h('section', { 'aria-label': t('adapters.list') }),
    place: h('div'),
    refresh: () => drawList(page),
  };
  const { recipes, defaults } = await adapters.recipes(view.signal);
  append(view.main, [page.place, page.list, trainForm(page, recipes, defaults), stageLog(view.signal)]);
  await drawList(page);
}

/** @param {any} page */
async function drawList(page) {
  const found = (await adapters.list(page.view.signal)).adapters;
  const rollback = button(t('adapters.rollback'), (event) => {
    if (!window.confirm(t('adapters.rollback.sure'))) return;
    attempt(event.currentTarget, page.place, async () => {
      const live = await adapters.rollback(page.view.collection);
      announce(t('adapters.live.now', { name: `${live.name}@${live.version}` }));
      await page.refresh();
    });
  });
  fill(
    page.list,
    found.length
      ? [
          found
            .slice()
            .reverse()
            .map((adapter) => card(page, adapter)),
          h('div', { class: 'row' }, rollback),
        ]
      : h(
          'div',
          { class: 'empty' },
          h('p', {}, t('adapters.empty')),
          h('a', { href: '#/pairs', class: 'button' }, t('adapters.empty.next')),
        ),
  );
}

/** @param {any} page @param {any} adapter */
function card(page, adapter) {
  const label = `${adapter.name}@${adapter.version}`;
  const place = h('div');
  const promote = (force) => (event) =>
    attempt(event.currentTarget, place, async () => {
      await adapters.promote(adapter.name, adapter.version, force);
      announce(t('adapters.live.now', { name: label }));
      await page.refresh();
    }).then(() => {
      const refused = place.querySelector('.problem');
      if (refused && !force) refused.append(button(t('adapters.promote.force'), promote(true)));
    });
  const shadow = (event) =>
    attempt(event.currentTarget, place, async () => {
      await adapters.shadow(label);
      announce(t('adapters.shadow.now', { name: label }));
      await page.refresh();
    });
  const drop = (event) => {
    if (window.confirm(t('adapters.delete.sure', { name: label })))
      attempt(event.currentTarget, place, async () => {
        await adapters.remove(adapter.name, adapter.version);
        await page.refresh();
      });
  };
  return h(
    'article',
    { class: 'card' },
    h(
      'h2',
      {},
      foreign(label),
      ' ',
      h('span', { class: `badge ${adapter.stage}` }, tOr(`adapters.stage.${adapter.stage}`, adapter.stage)),
      adapter.stale && h('span', { class: 'badge warning' }, t('adapters.stale')),
    ),
    adapter.stale && h('p', { class: 'hint' }, t('adapters.stale.why')),
    figures(adapter),
    h(
      'div',
      { class: 'row' },
      adapter.stage !== 'live' &&
        button(t('adapters.promote'), promote(false), {
          class: 'primary',
          'aria-label': t('adapters.promote.of', { name: label }),
        }),
      h(
        'a',
        { class: 'button', href: `#/ask?${new URLSearchParams({ mode: 'combined', adapter: label })}` },
        t('adapters.try'),
      ),
      button(t('policy.title'), (event) => attempt(event.currentTarget, place, () => showDecision(label))),
      ['candidate', 'retired'].includes(adapter.stage) &&
        button(t('adapters.shadow'), shadow, { 'aria-label': t('adapters.shadow.of', { name: label }) }),
      button(t('adapters.lineage'), (event) => showLineage(event.currentTarget, place, label)),
      button(t('app.delete'), drop, { class: 'danger', 'aria-label': t('adapters.delete.of', { name: label }) }),
    ),
    place,
  );
}

/** @param {number | undefined} n */
const epochs = (n) => t(`adapters.epochs.${n === 1 ? 'one' : 'other'}`, { n: n ?? '–' });

/** @param {any} adapter */
function figures(adapter) {
  const { parity, metrics, lineage, recipe } = adapter;
  const forgetting = metrics.forgetting;
  const facts = [
    ['adapters.base', adapter.base_model],
    ['adapters.parity', parity && `${percent(parity.greedy_agreement)} · KL ${number(parity.kl ?? 0, 4)}`],
    ['adapters.forgetting', forgetting && tOr(`adapters.forgetting.${forgetting.passed}`, String(forgetting.passed))],
    ['adapters.pairs', lineage.pairs !== undefined && number(lineage.pairs)],
    [
      'adapters.recipe',
      `r ${recipe.r} · ${recipe.attention ?? adapter.attention} · ${epochs(recipe.num_train_epochs)}`,
    ],
    ['adapters.started', lineage.init_adapter],
  ];
  return h(
    'dl',
    { class: 'facts' },
    facts
      .filter(([, value]) => value)
      .map(([key, value]) => h('div', {}, h('dt', {}, t(key)), h('dd', {}, foreign(String(value))))),
  );
}

/** @param {any} control @param {HTMLElement} place @param {string} label */
function showLineage(control, place, label) {
  attempt(control, place, async () => {
    const found = await adapters.lineage(label);
    const group = (title, things) =>
      Object.entries(things).map(
        ([kind, rows]) =>
          rows.length > 0 &&
          h(
            'details',
            {},
            h(
              'summary',
              {},
              `${title}: ${tOr(`lineage.${kind}`, kind)} (${number(found.totals[kind] ?? rows.length)})`,
            ),
            h(
              'ul',
              {},
              rows.map((row) =>
                h(
                  'li',
                  {},
                  foreign(row.source || row.question || row.id),
                  !row.present && h('span', { class: 'badge warning' }, t('lineage.gone')),
                ),
              ),
            ),
          ),
      );
    const parts = [group(t('lineage.made_from'), found.made_from), group(t('lineage.used_by'), found.used_by)]
      .flat()
      .filter(Boolean);
    dialog(t('lineage.of', { name: label }), parts.length ? parts : h('p', {}, t('lineage.none')), t('app.close'));
  });
}

/** @param {any} page @param {any[]} recipes @param {any} defaults */
function trainForm(page, recipes, defaults) {
  const { view } = page;
  const preset = select(
    [['', t('recipe.default')], ...recipes.map((each) => [each.name, tOr(`recipe.${each.name}`, each.name)])],
    '',
  );
  const about = h('p', { class: 'hint' }, t('recipe.default.help'));
  const name = h('input', { value: 'house', required: true, pattern: '[A-Za-z0-9][A-Za-z0-9._\\-]{0,63}' });
  const live = checkbox(t('adapters.train.promote'));
  const knobs = Object.fromEntries(KNOBS.map((knob) => [knob, h('input', { type: 'number', step: 'any', min: '0' })]));
  const usePreset = () => {
    const values = { ...defaults, ...recipes.find((each) => each.name === preset.value)?.values };
    for (const knob of KNOBS) knobs[knob].value = values[knob];
    fill(about, tOr(`recipe.${preset.value || 'default'}.help`, ''));
  };
  preset.addEventListener('change', usePreset);
  usePreset();
  const place = h('div');
  const start = h('button', { class: 'primary' }, t('adapters.train'));
  const run = () =>
    attempt(start, place, async () => {
      const values = { ...recipes.find((each) => each.name === preset.value)?.values };
      for (const knob of KNOBS) values[knob] = Number(knobs[knob].value);
      const { job_id: jobId } = await adapters.train({
        name: name.value.trim(),
        collection: view.collection,
        recipe: values,
        promote: live.querySelector('input').checked,
      });
      const { element, add } = lossChart();
      const panel = jobPanel(jobId, t('job.kind.train'), view.signal, (event) => add(event.progress));
      place.append(panel.element, element);
      const end = await panel.ended;
      if (end?.outputs.not_promoted)
        place.append(h('p', { class: 'problem' }, foreign(end.outputs.not_promoted.detail)));
      await page.refresh();
    });
  return form(
    run,
    h('h2', {}, t('adapters.train')),
    h('p', { class: 'hint' }, t('adapters.train.why')),
    h('div', { class: 'grid' }, field(t('adapters.name'), name), field(t('adapters.preset'), preset)),
    about,
    h(
      'details',
      {},
      h('summary', {}, t('adapters.knobs')),
      h(
        'div',
        { class: 'grid' },
        KNOBS.map((knob) => field(tOr(`recipe.field.${knob}`, knob), knobs[knob])),
      ),
    ),
    live,
    h('div', { class: 'row' }, start),
    place,
  );
}
