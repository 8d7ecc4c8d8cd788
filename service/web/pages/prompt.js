/** *Prompt*: variants of a collection's instructions tried on real questions side by side, and one of them put to use. */

import { collections, pairs } from '../api.js';
import { attempt } from '../components/problem.js';
import { announce, append, button, field, fill, foreign, form, h } from '../dom.js';
import { t } from '../i18n.js';
import { atOnce, column } from './compare.js';

const MOST = 4; // side by side on a wide screen
const TAKEN = 5; // questions taken from the pairs: enough to see a difference, few enough to wait for
const NUMBERS = [
  ['temperature', { min: '0', max: '2', step: 'any' }],
  ['max_tokens', { min: '1', max: '8192', step: '1' }],
  ['top_k', { min: '1', max: '50', step: '1' }],
];

/** @param {import('../app.js').View} view */
export default async function promptPage(view) {
  const house = await collections.get(view.collection, view.signal).catch((error) => {
    if (error.type !== 'unknown-collection') throw error;
    return { instructions: '', sampling: {}, version: 0, versions: [] };
  });
  const questions = h('textarea', { rows: '4', required: true, dir: 'auto' });
  const numbers = NUMBERS.map(([name, bounds]) =>
    h('input', { type: 'number', name, value: house.sampling[name] ?? '', .../** @type {any} */ (bounds) }),
  );
  const results = h('div', {});
  const variants = h('div', { class: 'arms' });
  const place = h('div', {});
  const say = () => Object.fromEntries(numbers.map((each) => [each.name, each.value === '' ? null : Number(each.value)]));
  const versions = h('div', {});
  /** @param {any} control @param {Record<string, any>} body */
  const use = (control, body) =>
    attempt(control, place, async () => {
      const now = await collections.put(view.collection, body);
      numbers.forEach((each) => (each.value = now.sampling[each.name] ?? ''));
      fill(versions, versionList(now, use));
      append(place, h('p', {}, t('prompt.used', { version: now.version })));
      announce(t('prompt.used', { version: now.version }));
    });
  /** @param {string} text */
  const add = (text) => {
    if (variants.children.length < MOST) variants.append(variant(variants.children.length + 1, text, use, say));
    another.disabled = variants.children.length >= MOST;
  };
  const another = button(t('prompt.another'), () => add(''));
  const take = button(t('prompt.take'), () =>
    attempt(take, place, async () => {
      const found = await pairs.list({ collection: view.collection, status: 'accepted', limit: TAKEN }, view.signal);
      questions.value = found.pairs.map((pair) => pair.question.replace(/\s+/g, ' ')).join('\n');
      if (!found.pairs.length) throw new Error(t('prompt.nopairs'));
    }),
  );
  add(house.instructions);
  add('');
  const start = h('button', { class: 'primary' }, t('prompt.try'));
  append(view.main, [
    h('p', { class: 'hint' }, t('prompt.why')),
    form(
      () => tryAll(view, results, variants, { questions, start, sampling: say() }),
      field(t('prompt.questions'), questions, t('prompt.questions.hint')),
      h('div', { class: 'row' }, take),
      variants,
      h('div', { class: 'row' }, another),
      h(
        'fieldset',
        {},
        h('legend', {}, t('prompt.sampling')),
        h(
          'div',
          { class: 'row' },
          numbers.map((input) => field(t(`prompt.number.${input.name}`), input)),
        ),
      ),
      h('div', { class: 'row' }, start),
      place,
    ),
    results,
    h('h2', {}, t('prompt.versions')),
    fill(versions, versionList(house, use)),
  ]);
}

/**
 * A box in which to write instructions, and a button that puts them to use.
 * @param {number} number @param {string} text @param {(control: any, body: any) => any} use
 * @param {() => any} sampling
 */
function variant(number, text, use, sampling) {
  const input = h('textarea', { rows: '5', dir: 'auto', maxlength: '4000' }, text);
  const put = button(t('prompt.use', { number }), (event) =>
    use(event.target, { instructions: input.value, sampling: sampling() }),
  );
  return h('div', { class: 'card' }, field(t('prompt.variant', { number }), input), put);
}

/** Ask every question under every variant. @param {any} view @param {any} results @param {any} variants @param {any} say */
async function tryAll(view, results, variants, say) {
  const texts = [...variants.querySelectorAll('textarea')].map((each) => each.value);
  const asked = say.questions.value.split('\n').map((line) => line.trim()).filter(Boolean);
  const given = Object.fromEntries(Object.entries(say.sampling).filter(([, value]) => value !== null));
  const waiting = [];
  fill(
    results,
    asked.map((question) => {
      const columns = texts.map((instructions, at) => {
        const made = column({ label: t('prompt.variant', { number: at + 1 }), ask: { instructions, ...given } }, 'h3');
        waiting.push(() => made.run({ question, collection: view.collection }, view.signal));
        return made.element;
      });
      return h('section', {}, h('h2', {}, foreign(question)), h('div', { class: 'arms' }, columns));
    }),
  );
  say.start.disabled = true;
  await atOnce(waiting);
  say.start.disabled = false;
  announce(t('prompt.ready'));
}

/** @param {any} house @param {(control: any, body: any) => any} use */
function versionList(house, use) {
  if (!house.versions.length) return h('p', { class: 'hint' }, t('prompt.none'));
  return h(
    'ul',
    {},
    house.versions.map((each) =>
      h(
        'li',
        {},
        t('prompt.version', { version: each.version }),
        ' ',
        foreign(each.instructions || t('prompt.empty')),
        ' ',
        each.version !== house.version &&
          button(t('prompt.back', { version: each.version }), (event) => use(event.target, { version: each.version })),
      ),
    ),
  );
}
