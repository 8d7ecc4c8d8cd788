/** The conversations of this tab: kept until it is closed, the newest last. Knows no elements. */

import { recall, remember } from '../session.js';

/**
 * @typedef {{question: string, text: string, state: 'running' | 'done' | 'stopped',
 *   answer: import('../api.js').Answer | null}} Turn
 */

const MOST = 20;
const MOST_TURNS = 40;
const SENT_TURNS = 6;

/** @returns {Turn[][]} */
export const conversations = () => recall('conversations', []);

/** A reload ends a stream: what was running is stopped. @returns {Turn[]} the one that goes on */
export function currentTurns() {
  const last = conversations().at(-1) || [];
  return last.map((turn) => (turn.state === 'running' ? { ...turn, state: 'stopped' } : turn));
}

/** @param {Turn[]} turns of the conversation that goes on */
export function keep(turns) {
  const before = conversations()
    .slice(0, -1)
    .slice(-(MOST - 1));
  const kept = turns.slice(-MOST_TURNS);
  // Where the browser's storage is full, older conversations make room.
  while (!remember('conversations', [...before, kept]) && before.length) before.shift();
}

export function startAnew() {
  const all = conversations();
  if (!all.length || all.at(-1)?.length) remember('conversations', [...all, []]);
}

/** Make an earlier conversation the one that goes on. @param {number} at */
export function goBackTo(at) {
  const all = conversations().filter((turns) => turns.length);
  const [chosen] = all.splice(at, 1);
  remember('conversations', [...all, chosen]);
}

/** What the server is told of the conversation: whole turns, the newest. @param {Turn[]} turns */
export function history(turns) {
  return turns
    .filter((turn) => turn.state === 'done' && turn.answer && !turn.answer.abstained)
    .slice(-SENT_TURNS)
    .flatMap((turn) => [
      { role: /** @type {const} */ ('user'), content: turn.question },
      { role: /** @type {const} */ ('assistant'), content: turn.answer?.answer || '' },
    ]);
}
