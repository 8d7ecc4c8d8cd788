/** The frame of the page: language and colours, the key, the menu, and which page is shown. */

import { hooks, isAbort, keys, listCollections, system, whoAmI } from './api.js';
import { announce, button, field, fill, h, select } from './dom.js';
import { LANGUAGES, chooseLanguage, language, loadLanguage, t } from './i18n.js';
import { problemBox } from './components/problem.js';
import { prefer, preferred, recall, remember } from './session.js';
import adapters from './pages/adapters.js';
import ask from './pages/ask.js';
import compare from './pages/compare.js';
import documents from './pages/documents.js';
import evaluations from './pages/evaluations.js';
import jobs from './pages/jobs.js';
import pairs from './pages/pairs.js';
import prompt from './pages/prompt.js';
import settings from './pages/settings.js';

// All at once: a page that is open goes on whatever becomes of the server's files.
/** @type {Record<string, (view: View) => Promise<void>>} */
const PAGES = { ask, compare, documents, pairs, prompt, adapters, evaluations, jobs, settings };
/** What a key must be allowed, one of them, for a page to be of use. @type {Record<string, string[]>} */
const SCOPES = {
  ask: ['query'],
  compare: ['query'],
  documents: ['query', 'ingest', 'train'],
  pairs: ['train'],
  prompt: ['train'],
  adapters: ['train'],
  evaluations: ['train'],
  jobs: ['ingest', 'train'],
  settings: [],
};
const THEMES = ['system', 'light', 'dark'];
const BACK_MS = 2000;

/**
 * What a page gets: where to draw, what the address says, and a signal that ends when the page is left.
 * @typedef {{main: HTMLElement, params: URLSearchParams, signal: AbortSignal, collection: string}} View
 */

const main = h('main', { id: 'main', tabindex: '-1' });
const menu = h('nav', { id: 'menu', 'aria-label': 'ragtune' });
const banner = h('div', { class: 'banner', role: 'alert', hidden: true });
const chooser = h('div', { class: 'collection' });
let leave = new AbortController();

function address() {
  const [path, query = ''] = location.hash.replace(/^#\/?/, '').split('?');
  return { name: Object.hasOwn(PAGES, path) ? path : 'ask', params: new URLSearchParams(query) };
}

async function show() {
  leave.abort();
  leave = new AbortController();
  const { signal } = leave;
  const { name, params } = address();
  for (const link of menu.querySelectorAll('a')) {
    if (link.dataset.page === name) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  document.title = `${t(`nav.${name}`)} – ragtune`;
  fill(main, h('h1', {}, t(`nav.${name}`)));
  main.dataset.page = name;
  try {
    await PAGES[name]({ main, params, signal, collection: recall('collection', 'default') });
  } catch (error) {
    if (!isAbort(error) && !signal.aborted) main.append(problemBox(error, show));
  }
}

function drawFrame() {
  const toggle = button(
    t('app.menu'),
    () => {
      const open = document.documentElement.classList.toggle('menu-open');
      toggle.setAttribute('aria-expanded', String(open));
    },
    { class: 'menu-button', 'aria-expanded': 'false', 'aria-controls': 'menu' },
  );
  const theme = select(
    THEMES.map((name) => [name, t(`theme.${name}`)]),
    preferred('theme', 'system'),
    {
      'aria-label': t('app.theme'),
      on: { change: (event) => useTheme(event.target.value) },
    },
  );
  const tongue = select(Object.entries(LANGUAGES), language, {
    'aria-label': t('app.language'),
    on: { change: (event) => chooseLanguage(event.target.value) },
  });
  document.body.prepend(
    h('a', { class: 'skip', href: '#main', on: { click: skip } }, t('app.skip')),
    h(
      'header',
      { class: 'top' },
      h('a', { class: 'brand', href: '#/ask' }, 'ragtune'),
      toggle,
      menu,
      h('div', { class: 'choices' }, chooser, tongue, theme),
    ),
    banner,
    main,
  );
}

/** @param {Event} event */
function skip(event) {
  event.preventDefault(); // the fragment of the address names the page
  main.focus();
}

/** @param {string} name */
function useTheme(name) {
  prefer('theme', name);
  applyTheme();
}

function applyTheme() {
  const name = preferred('theme', 'system');
  if (name === 'system') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
}

/** The pages that the key of this tab can use; all of them where that is not known. */
async function drawMenu() {
  const { scopes } = await whoAmI().catch(() => ({ scopes: ['admin'] }));
  const useful = (name) =>
    !SCOPES[name].length || scopes.includes('admin') || SCOPES[name].some((scope) => scopes.includes(scope));
  fill(
    menu,
    h(
      'ul',
      {},
      Object.keys(PAGES)
        .filter(useful)
        .map((name) => h('li', {}, h('a', { href: `#/${name}`, 'data-page': name }, t(`nav.${name}`)))),
    ),
  );
}

/** Offer the collections where there is more than one. */
export async function drawCollections() {
  try {
    const { collections } = await listCollections();
    const names = collections.map((each) => each.name);
    const chosen = recall('collection', 'default');
    const used = names.includes(chosen) || !names.length ? chosen : names[0];
    remember('collection', used);
    fill(
      chooser,
      names.length > 1 &&
        select(
          names.map((name) => [name, name]),
          used,
          {
            'aria-label': t('app.collection'),
            on: {
              change: (event) => {
                remember('collection', event.target.value);
                show();
              },
            },
          },
        ),
    );
  } catch {
    fill(chooser); // the page itself says what is wrong
  }
}

/** @type {Promise<boolean> | null} */
let asking = null;

/** Ask for a key, once however many requests wait for it. @param {import('./api.js').ApiError} refused */
function wantKey(refused) {
  asking ??= new Promise((resolve) => {
    const input = h('input', { type: 'password', autocomplete: 'off', required: true, spellcheck: 'false' });
    const had = keys.get();
    const box = h(
      'dialog',
      {
        'aria-labelledby': 'key-title',
        on: {
          close: () => {
            box.remove();
            asking = null;
            resolve(Boolean(box.returnValue));
          },
        },
      },
      h(
        'form',
        {
          method: 'dialog',
          on: {
            submit: () => {
              keys.set(input.value.trim());
              box.returnValue = 'given';
              setTimeout(drawMenu);
            },
          },
        },
        h('header', {}, h('h2', { id: 'key-title' }, t('key.title'))),
        h(
          'div',
          { class: 'dialog-body' },
          had && h('p', { class: 'problem', role: 'alert' }, t('key.refused')),
          h('p', {}, t('key.why')),
          field(t('key.label'), input, t('key.kept')),
          refused.hint && h('p', { class: 'hint' }, refused.hint),
          h(
            'div',
            { class: 'row' },
            h('button', { class: 'primary', value: 'given' }, t('key.use')),
            button(t('app.cancel'), () => box.close('')),
          ),
        ),
      ),
    );
    document.body.append(box);
    box.showModal();
  });
  return asking;
}

let away = false;

/** Say that the server is gone, look for it, and say that it is back. @param {boolean} up */
function reached(up) {
  if (up === !away) return;
  away = !up;
  banner.hidden = up;
  fill(banner, !up && t('app.gone'));
  if (up) announce(t('app.back'));
  else setTimeout(look, BACK_MS);
}

async function look() {
  if (!away) return;
  try {
    if ((await system.alive()).ok) {
      reached(true);
      return;
    }
  } catch {
    // still gone
  }
  setTimeout(look, BACK_MS);
}

async function start() {
  applyTheme();
  await loadLanguage();
  Object.assign(hooks, { wantKey, reached });
  drawFrame();
  window.addEventListener('hashchange', async () => {
    document.documentElement.classList.remove('menu-open');
    document.querySelector('.menu-button')?.setAttribute('aria-expanded', 'false');
    await show();
    main.focus({ preventScroll: true });
    window.scrollTo(0, 0);
  });
  window.addEventListener('collections-changed', drawCollections);
  await Promise.all([drawMenu(), drawCollections()]);
  await show();
}

start();
