/** Which arm and which adapter: the choices that the server offers. */

import { listModels } from '../api.js';
import { fill, h, select } from '../dom.js';
import { t, tOr } from '../i18n.js';

/** @param {AbortSignal} signal @returns {Promise<{arms: string[], adapters: string[]}>} */
export async function offered(signal) {
  const { data } = await listModels(signal);
  const named = (role) => data.filter((model) => model.role === role).map((model) => model.id);
  return { arms: named('arm'), adapters: named('adapter') };
}

/** @param {string} arm */
export const armName = (arm) => tOr(`mode.${arm}`, arm);

/** @param {string[]} arms @param {string} chosen */
export function armSelect(arms, chosen) {
  const names = arms.includes(chosen) ? arms : [...arms, chosen];
  return select(
    names.map((name) => [name, armName(name)]),
    chosen,
  );
}

/** @param {string[]} adapters @param {string} chosen */
export function adapterSelect(adapters, chosen) {
  const names = chosen && !adapters.includes(chosen) ? [...adapters, chosen] : adapters;
  return select([['', t('ask.adapter.live')], ...names.map((name) => [name, name])], chosen);
}

/** Say in its first option what it means to name no adapter. @param {HTMLSelectElement} adapters @param {string | null} suggested */
export function sayWhatNoneMeans(adapters, suggested) {
  fill(adapters.options[0], suggested ? t('ask.adapter.suggested', { name: suggested }) : t('ask.adapter.live'));
}

/** What the arms mean, for those who do not know. */
export function armHelp() {
  return h(
    'details',
    {},
    h('summary', {}, t('mode.help')),
    h(
      'dl',
      {},
      ['auto', 'rag', 'combined', 'tuned', 'base'].map((arm) => [
        h('dt', {}, armName(arm)),
        h('dd', {}, t(`mode.${arm}.help`)),
      ]),
    ),
  );
}
