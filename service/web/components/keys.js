/** The keys of the service, for those who may make and revoke them. */

import { access } from '../api.js';
import { announce, append, button, checkbox, field, fill, foreign, form, h, table } from '../dom.js';
import { date, t } from '../i18n.js';
import { attempt } from './problem.js';

const SCOPES = ['query', 'ingest', 'train', 'admin'];

/** @param {AbortSignal} signal */
export async function keyManager(signal) {
  const list = h('div');
  const place = h('div');
  const draw = async () => {
    const { keys } = await access.list(signal);
    fill(
      list,
      keys.length
        ? table(
            t('key.list'),
            [t('key.name'), t('key.scopes'), t('documents.collection'), t('key.made'), ''],
            keys.map((key) => row(key, place, draw)),
          )
        : h('p', { class: 'empty' }, t('key.list.empty')),
    );
  };
  await draw();
  return [list, place, keyForm(draw)];
}

/** @param {any} key @param {HTMLElement} place @param {() => Promise<void>} draw */
function row(key, place, draw) {
  const revoke = (event) => {
    if (!window.confirm(t('key.revoke.sure', { name: key.name }))) return;
    attempt(event.currentTarget, place, async () => {
      await access.revoke(key.id);
      await draw();
    });
  };
  return h(
    'tr',
    {},
    h(
      'td',
      {},
      foreign(key.name),
      ' ',
      h('span', { class: `badge ${key.valid ? 'ok' : 'failed'}` }, t(key.valid ? 'key.valid' : 'key.invalid')),
    ),
    h(
      'td',
      {},
      key.scopes.map((scope) => h('span', { class: 'badge' }, t(`key.scope.${scope}`))),
    ),
    h('td', {}, key.collections.length ? foreign(key.collections.join(', ')) : t('app.all')),
    h('td', { class: 'minor' }, date(key.created_at)),
    h(
      'td',
      { class: 'row' },
      key.valid &&
        button(t('key.revoke'), revoke, { class: 'danger', 'aria-label': t('key.revoke.of', { name: key.name }) }),
    ),
  );
}

/** @param {() => Promise<void>} draw */
function keyForm(draw) {
  const place = h('div');
  const name = h('input', { required: true, maxlength: '200' });
  const collections = h('input', {});
  const boxes = SCOPES.map((scope) => checkbox(t(`key.scope.${scope}`), { checked: scope === 'query' }));
  const make = h('button', { class: 'primary' }, t('key.create'));
  const run = () =>
    attempt(make, place, async () => {
      const body = {
        name: name.value.trim(),
        scopes: SCOPES.filter((_, at) => boxes[at].querySelector('input').checked),
        collections: collections.value
          .split(',')
          .map((each) => each.trim())
          .filter(Boolean),
      };
      const made = await access.create(body);
      append(place, h('p', { role: 'status' }, t('key.created'), ' ', h('code', { class: 'secret' }, made.key)));
      announce(t('key.created'));
      await draw();
    });
  return form(
    run,
    h(
      'div',
      { class: 'grid' },
      field(t('key.name'), name),
      field(t('key.collections'), collections, t('key.collections.hint')),
    ),
    h('fieldset', {}, h('legend', {}, t('key.scopes')), h('div', { class: 'row' }, boxes)),
    h('div', { class: 'row' }, make),
    place,
  );
}
