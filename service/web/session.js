/**
 * What a browser remembers. The key and the conversation stay in this tab and go when it is closed; only the choice
 * of language and colours is kept for all tabs. A browser that refuses storage forgets at the next load, no more.
 */

const PREFIX = 'ragtune.';

/** @param {Storage} store @param {string} name @param {any} fallback */
function read(store, name, fallback) {
  try {
    const value = store.getItem(PREFIX + name);
    return value === null ? fallback : JSON.parse(value);
  } catch {
    return fallback;
  }
}

/** @param {() => Storage} store @param {string} name @param {any} value null removes it */
function write(store, name, value) {
  try {
    if (value === null) store().removeItem(PREFIX + name);
    else store().setItem(PREFIX + name, JSON.stringify(value));
    return true;
  } catch {
    return false; // full, or refused
  }
}

/** @param {string} name @param {any} [fallback] */
export function recall(name, fallback = null) {
  try {
    return read(window.sessionStorage, name, fallback);
  } catch {
    return fallback;
  }
}

/** Keep a value in this tab. @param {string} name @param {any} value */
export const remember = (name, value) => write(() => window.sessionStorage, name, value);

/** @param {string} name @param {any} [fallback] */
export function preferred(name, fallback = null) {
  try {
    return read(window.localStorage, name, fallback);
  } catch {
    return fallback;
  }
}

/** Keep a choice for every tab. @param {string} name @param {any} value */
export const prefer = (name, value) => write(() => window.localStorage, name, value);
