/** *Evaluations*: the arms over held-out questions, and how the figures went over time. */

import { evaluations, keys } from '../api.js';
import { jobPanel } from '../components/job.js';
import { download } from '../components/pairfiles.js';
import { attempt } from '../components/problem.js';
import { append, button, checkbox, field, fill, foreign, form, h, table } from '../dom.js';
import { armName, offered } from '../components/arms.js';
import { date, number, percent, t } from '../i18n.js';

/** @param {import('../app.js').View} view */
export default async function evaluationsPage(view) {
  const list = h('section', { 'aria-label': t('evaluations.list') });
  const page = { view, list, refresh: () => drawList(page) };
  const { arms, adapters } = await offered(view.signal);
  append(view.main, [
    list,
    startForm(
      page,
      arms.filter((arm) => arm !== 'auto'),
      adapters,
    ),
  ]);
  await drawList(page);
}

/** @param {any} page */
async function drawList(page) {
  const found = (await evaluations.list(page.view.signal)).evaluations;
  if (!found.length) {
    fill(page.list, h('p', { class: 'empty' }, t('evaluations.empty')));
    return;
  }
  fill(
    page.list,
    history(found),
    found.map((each) => result(page, each)),
  );
}

/** The headline figure of each arm over time. @param {any[]} found */
function history(found) {
  const arms = [...new Set(found.flatMap((each) => Object.keys(each.result.arms)))];
  return h(
    'section',
    {},
    h('h2', {}, t('evaluations.history')),
    h('p', { class: 'hint' }, t('evaluations.history.why')),
    table(
      t('evaluations.history'),
      [t('evaluations.when'), t('evaluations.questions'), ...arms.map(armName)],
      found.map((each) =>
        h(
          'tr',
          {},
          h('td', {}, date(each.created_at)),
          h('td', { class: 'n' }, number(each.result.questions?.n ?? 0)),
          arms.map((arm) => h('td', { class: 'n' }, each.result.arms[arm] ? number(each.result.arms[arm].f1, 1) : '–')),
        ),
      ),
    ),
  );
}

/** @param {any} page @param {any} evaluation */
function result(page, evaluation) {
  const { arms, verdict, minimum_detectable_difference: least } = evaluation.result;
  const place = h('div');
  const rows = Object.entries(arms).map(([arm, figures]) =>
    h(
      'tr',
      {},
      h('th', { scope: 'row' }, armName(arm), figures.adapter && [' ', foreign(figures.adapter, 'small')]),
      h('td', { class: 'n' }, number(figures.f1, 1)),
      h('td', { class: 'n' }, (figures.f1_ci || []).map((edge) => number(edge, 1)).join(' – ')),
      h('td', { class: 'n' }, number(figures.em, 1)),
      h('td', { class: 'n' }, number(figures.abstained)),
      h('td', { class: 'n' }, percent(figures.citation_precision)),
      h('td', { class: 'n' }, number(figures.latency_ms_p50)),
    ),
  );
  return h(
    'article',
    { class: 'card' },
    h('h2', {}, foreign(verdict)),
    h(
      'p',
      { class: 'hint' },
      date(evaluation.created_at),
      ' · ',
      foreign(evaluation.collection),
      ' · ',
      t('evaluations.least', { n: number(least ?? 0, 1) }),
    ),
    table(
      verdict,
      [
        t('evaluations.arm'),
        'F1',
        t('evaluations.interval'),
        t('evaluations.exact'),
        t('evaluations.abstained'),
        t('evaluations.cites'),
        t('evaluations.ms'),
      ],
      rows,
    ),
    h('div', { class: 'row' }, reportControl(evaluation.id, place)),
    place,
  );
}

/** A link cannot carry a key; where one is used the report comes as a file. @param {string} id @param {HTMLElement} place */
function reportControl(id, place) {
  if (!keys.get()) {
    return h(
      'a',
      { class: 'button', href: `/v1/evaluations/${encodeURIComponent(id)}/report`, target: '_blank', rel: 'noopener' },
      t('evaluations.report'),
    );
  }
  return button(t('evaluations.report.save'), (event) =>
    attempt(event.currentTarget, place, async () => download(await evaluations.report(id), `evaluation-${id}.html`)),
  );
}

/** @param {any} page @param {string[]} arms @param {string[]} adapters */
function startForm(page, arms, adapters) {
  const { view } = page;
  const place = h('div');
  const input = h('textarea', {
    rows: '5',
    required: true,
    spellcheck: 'false',
    placeholder: t('evaluations.example'),
  });
  const file = h('input', { type: 'file', accept: '.jsonl,.json' });
  file.addEventListener('change', async () => {
    if (file.files[0]) input.value = await file.files[0].text();
  });
  const names = [...arms, ...adapters];
  const boxes = names.map((name) => checkbox(armName(name), { checked: arms.includes(name) }));
  const start = h('button', { class: 'primary' }, t('evaluations.start'));
  const run = () =>
    attempt(start, place, async () => {
      const chosen = names.filter((_, at) => boxes[at].querySelector('input').checked);
      const { job_id: jobId } = await evaluations.start({
        questions: questionsOf(input.value),
        collection: view.collection,
        arms: chosen,
      });
      const panel = jobPanel(jobId, t('job.kind.evaluate'), view.signal);
      place.append(panel.element);
      if (await panel.ended) await page.refresh();
    });
  return form(
    run,
    h('h2', {}, t('evaluations.start')),
    h('p', { class: 'hint' }, t('evaluations.why')),
    field(t('evaluations.file'), file),
    field(t('evaluations.input'), input, t('evaluations.input.hint')),
    h('fieldset', {}, h('legend', {}, t('compare.arms')), h('div', { class: 'row' }, boxes)),
    h('div', { class: 'row' }, start),
    place,
  );
}

/** Read questions, one JSON object a line; a line that is none is named. @param {string} text */
function questionsOf(text) {
  return text
    .split('\n')
    .map((line, at) => ({ line: line.trim(), at: at + 1 }))
    .filter(({ line }) => line)
    .map(({ line, at }) => {
      try {
        const { id, question, answers, answerable, document } = JSON.parse(line);
        return { id: String(id ?? at), question, answers, answerable, document };
      } catch (error) {
        throw new Error(t('evaluations.bad_line', { n: at, line: line.slice(0, 80) }));
      }
    });
}
