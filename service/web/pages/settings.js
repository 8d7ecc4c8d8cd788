/** *Settings*: the key of this tab, what the server is set up with, whether that works, and its routes. */

import { keys, listModels, system, whoAmI } from '../api.js';
import { keyManager } from '../components/keys.js';
import { problemBox } from '../components/problem.js';
import { append, button, fill, foreign, h, table } from '../dom.js';
import { number, size, t, tOr } from '../i18n.js';

/** @param {import('../app.js').View} view */
export default async function settingsPage(view) {
  const { scopes, collections } = await whoAmI();
  const administers = scopes.includes('admin') && !collections.length;
  append(view.main, [
    keySection(),
    administers && section('settings.doctor', () => doctor(view)),
    administers && section('key.list', () => keyManager(view.signal)),
    (administers || scopes.includes('query')) && section('settings.models', () => models(view)),
    administers && section('settings.limits', () => limits(view)),
    section('settings.routes', () => routes(view)),
  ]);
}

/** A part that fails says so in its own place. @param {string} title @param {() => Promise<any>} load */
function section(title, load) {
  const place = h('div', { 'aria-busy': 'true' }, t('app.loading'));
  const draw = () =>
    load()
      .then(
        (content) => fill(place, content),
        (error) => fill(place, problemBox(error, draw)),
      )
      .finally(() => place.removeAttribute('aria-busy'));
  draw();
  return h('section', {}, h('h2', {}, t(title)), place);
}

function keySection() {
  const forget = button(t('key.forget'), () => {
    keys.set(null);
    location.reload();
  });
  return h(
    'section',
    {},
    h('h2', {}, t('key.title')),
    keys.get() ? h('div', {}, h('p', {}, t('key.kept')), forget) : h('p', {}, t('key.none')),
  );
}

/** @param {import('../app.js').View} view */
async function doctor(view) {
  const { findings } = await system.doctor(view.signal);
  return h(
    'ul',
    { class: 'findings' },
    findings.map((finding) =>
      h(
        'li',
        {},
        h('span', { class: `badge ${finding.verdict}` }, t(`verdict.${finding.verdict}`)),
        ' ',
        h('strong', {}, tOr(`doctor.${finding.check}`, finding.check)),
        ': ',
        foreign(finding.found),
        finding.hint && h('p', { class: 'hint' }, foreign(finding.hint)),
      ),
    ),
  );
}

/** @param {import('../app.js').View} view */
async function models(view) {
  const { data } = await listModels(view.signal);
  return [
    h('p', { class: 'hint' }, t('settings.models.why')),
    table(
      t('settings.models'),
      [t('settings.name'), t('settings.role')],
      data.map((model) =>
        h('tr', {}, h('td', {}, h('code', {}, model.id)), h('td', {}, tOr(`role.${model.role}`, model.role))),
      ),
    ),
  ];
}

/** @param {import('../app.js').View} view */
async function limits(view) {
  const { settings } = await system.settings(view.signal);
  const shown = (name, value) =>
    name.endsWith('_bytes') ? size(value) : typeof value === 'number' ? number(value) : String(value);
  return [
    h('p', { class: 'hint' }, t('settings.limits.why')),
    table(
      t('settings.limits'),
      [t('settings.name'), t('settings.value')],
      Object.entries(settings).map(([name, value]) =>
        h(
          'tr',
          {},
          h('td', {}, h('code', {}, `RAGTUNE_${name.toUpperCase()}`)),
          h('td', {}, foreign(shown(name, value))),
        ),
      ),
    ),
  ];
}

/** @param {import('../app.js').View} view */
async function routes(view) {
  const { paths } = await system.routes(view.signal);
  const rows = Object.entries(paths).flatMap(([path, operations]) =>
    Object.entries(operations).map(([method, operation]) =>
      h(
        'tr',
        {},
        h('td', {}, h('code', {}, method.toUpperCase())),
        h('td', {}, h('code', {}, path)),
        h('td', {}, (operation.description || '').split('\n')[0]),
      ),
    ),
  );
  return h(
    'details',
    {},
    h('summary', {}, t('settings.routes.count', { n: rows.length })),
    h('p', {}, h('a', { href: '/openapi.json' }, '/openapi.json')),
    table(t('settings.routes'), [t('settings.method'), t('settings.path'), t('settings.does')], rows),
  );
}
