/** The words of the page in the chosen language, and numbers, dates and sizes as it writes them. */

import { prefer, preferred } from './session.js';

export const LANGUAGES = { en: 'English', zh: '中文' };

/** @type {Record<string, string>} */
let words = {};
export let language = 'en';

/** Load the words of the language that was chosen, or else that the browser asks for. */
export async function loadLanguage() {
  const wanted = preferred('language') || navigator.language || 'en';
  language = wanted.toLowerCase().startsWith('zh') ? 'zh' : 'en';
  const response = await fetch(new URL(`./i18n/${language}.json`, import.meta.url));
  words = await response.json();
  document.documentElement.lang = language === 'zh' ? 'zh-Hans' : 'en';
}

/** @param {string} chosen */
export function chooseLanguage(chosen) {
  prefer('language', chosen);
  location.reload();
}

/**
 * Return the words of a key, with `{name}` replaced by the value of that name.
 * @param {string} key @param {Record<string, string | number>} [values]
 */
export function t(key, values = {}) {
  const text = words[key] ?? key;
  return text.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? String(values[name]) : whole));
}

/** The words of a key where there are any, else what came instead of it. @param {string} key @param {string} other */
export const tOr = (key, other) => words[key] ?? other;

/** @param {number} value @param {number} [digits] */
export function number(value, digits = 0) {
  return new Intl.NumberFormat(language, { maximumFractionDigits: digits }).format(value);
}

/** @param {number | null | undefined} share 0 to 1 */
export function percent(share) {
  if (share === null || share === undefined) return '–';
  return new Intl.NumberFormat(language, { style: 'percent', maximumFractionDigits: 0 }).format(share);
}

/** @param {number | null | undefined} seconds Unix time */
export function date(seconds) {
  if (!seconds) return '–';
  const style = /** @type {const} */ ({ dateStyle: 'medium', timeStyle: 'short' });
  return new Intl.DateTimeFormat(language, style).format(new Date(seconds * 1000));
}

/** @param {number} seconds */
export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return t('time.seconds', { n: whole });
  if (whole < 3600) return t('time.minutes', { m: Math.floor(whole / 60), s: whole % 60 });
  return t('time.hours', { h: Math.floor(whole / 3600), m: Math.floor((whole % 3600) / 60) });
}

/** @param {number} bytes */
export function size(bytes) {
  if (bytes < 1024) return `${bytes} B`;
  if (bytes < 1024 ** 2) return `${number(bytes / 1024, 1)} KB`;
  return `${number(bytes / 1024 ** 2, 1)} MB`;
}
