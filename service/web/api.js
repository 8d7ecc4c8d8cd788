/**
 * The client of the public HTTP API (`/openapi.json`), and the only module that talks to the server.
 *
 * @typedef {{role: 'user' | 'assistant', content: string}} Turn
 * @typedef {{chunk_id: string, document_id: string, source: string, title: string, heading: string,
 *   page: number | null, start: number, end: number, text: string, score: number, rank: number, origin: string,
 *   duplicates: number}} Passage
 * @typedef {{n: number, document_id: string, source: string, title: string, heading: string, page: number | null,
 *   start: number, end: number, quote: string, score: number, supported: boolean}} Citation
 * @typedef {{id: string, answer: string, abstained: boolean, confidence: number | null, mode: string, model: string,
 *   abstained_by: string | null, sentences: {start: number, end: number, supported: boolean}[],
 *   adapter: string | null, adapter_stale: boolean, citations: Citation[], passages: Passage[],
 *   passages_dropped: number, timings_ms: Record<string, number>, usage: Record<string, number>}} Answer
 * @typedef {{question: string, collection?: string, mode?: string, adapter?: string | null, top_k?: number,
 *   max_tokens?: number, temperature?: number, method?: string, max_false_answer_rate?: number | null,
 *   history?: Turn[]}} Ask
 * @typedef {{done: number, total: number, unit: string, eta_s: number | null, stage: string,
 *   metrics: Record<string, any>}} Progress
 * @typedef {{id: string, kind: string, status: string, progress: Progress, error: Problem | null,
 *   inputs: Record<string, any>, outputs: Record<string, any>, created_at: number, started_at: number | null,
 *   finished_at: number | null}} Job
 * @typedef {{status: string, progress: Progress, error: Problem | null, outputs: Record<string, any>,
 *   at: number}} JobEvent
 * @typedef {{type: string, title: string, status: number, detail: string, got: any, wanted: string,
 *   hint: string}} Problem
 */

import { recall, remember } from './session.js';

/** A refusal of the server (RFC 9457), or `unreachable` where none came. */
export class ApiError extends Error {
  /** @param {Partial<Problem>} problem */
  constructor(problem) {
    super(problem.detail || problem.title || problem.type);
    this.type = problem.type || 'http-error';
    this.title = problem.title || '';
    this.status = problem.status || 0;
    this.detail = problem.detail || '';
    this.got = problem.got ?? null;
    this.wanted = problem.wanted || '';
    this.hint = problem.hint || '';
  }
}

/** @param {any} error */
export const isAbort = (error) => error instanceof DOMException && error.name === 'AbortError';

/** What the page does where the server wants a key, and when the server goes away or comes back. */
export const hooks = {
  /** Ask for a key; tell whether one was given. @type {(refused: ApiError) => Promise<boolean>} */
  wantKey: async () => false,
  /** @type {(up: boolean) => void} */
  reached: () => {},
};

export const keys = {
  get: () => /** @type {string | null} */ (recall('key')),
  /** @param {string | null} key */
  set: (key) => remember('key', key),
};

/** @returns {Record<string, string>} */
const authorization = () => (keys.get() ? { Authorization: `Bearer ${keys.get()}` } : {});

const UNREACHABLE = { type: 'unreachable', status: 0 };

/**
 * Send a request; where the server wants a key it is asked for, and the request is sent once more.
 * @param {string} path @param {RequestInit & {json?: any}} [options]
 * @returns {Promise<Response>} whose status says success
 */
async function send(path, options = {}) {
  const { json, ...rest } = options;
  if (json !== undefined) rest.body = JSON.stringify(json);
  const attempt = async () => {
    /** @type {Record<string, string>} */
    const headers = { ...authorization(), .../** @type {any} */ (options.headers) };
    if (json !== undefined) headers['Content-Type'] = 'application/json';
    try {
      const response = await fetch(path, { cache: 'no-store', ...rest, headers });
      hooks.reached(true);
      return response;
    } catch (error) {
      if (isAbort(error)) throw error;
      hooks.reached(false);
      throw new ApiError(UNREACHABLE);
    }
  };
  let response = await attempt();
  while (response.status === 401) {
    const refused = await refusal(response);
    if (!(await hooks.wantKey(refused))) throw refused;
    response = await attempt();
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

/** @param {Response} response */
async function refusal(response) {
  const problem = await response.json().catch(() => ({}));
  return new ApiError({ title: response.statusText, ...problem, status: response.status });
}

/** @param {string} path @param {AbortSignal} [signal] */
const get = async (path, signal) => (await send(path, { signal })).json();
/** @param {string} path @param {any} [json] @param {AbortSignal} [signal] */
const post = async (path, json, signal) => (await send(path, { method: 'POST', json, signal })).json();
/** @param {string} path */
const remove = async (path) => (await send(path, { method: 'DELETE' })).json();

/** Values that are null, undefined or "" are left out. @param {Record<string, any>} values */
function query(values) {
  const kept = Object.entries(values).filter(([, value]) => value !== null && value !== undefined && value !== '');
  return kept.length ? `?${new URLSearchParams(kept.map(([name, value]) => [name, String(value)]))}` : '';
}

const id = encodeURIComponent;

/**
 * Read Server-Sent Events from a response as they come.
 * @param {Response} response
 * @returns {AsyncGenerator<{event: string, id: string, data: any}>}
 */
export async function* readEvents(response) {
  const reader = /** @type {ReadableStream} */ (response.body).pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const blocks = (rest + value).replace(/\r\n/g, '\n').split('\n\n');
      rest = blocks.pop() || '';
      for (const block of blocks) {
        const event = parseEvent(block);
        if (event) yield event;
      }
    }
  } catch (error) {
    if (isAbort(error)) throw error;
    throw new ApiError(UNREACHABLE);
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** @param {string} block */
function parseEvent(block) {
  const found = { event: 'message', id: '', data: '' };
  const data = [];
  for (const line of block.split('\n')) {
    const [, name, value] = /^(event|id|data): ?(.*)$/.exec(line) || [];
    if (name === 'data') data.push(value);
    else if (name === 'event') found.event = value;
    else if (name === 'id') found.id = value;
  }
  return data.length ? { ...found, data: JSON.parse(data.join('\n')) } : null;
}

/**
 * Stream an answer: `passages`, `token` (any number), then `answer`.
 * @param {Ask} ask @param {AbortSignal} signal
 */
export async function* ask(ask, signal) {
  const response = await send('/v1/answers', { method: 'POST', json: { ...ask, stream: true }, signal });
  let ended = false;
  for await (const event of readEvents(response)) {
    if (event.event === 'error') throw new ApiError(event.data);
    ended ||= event.event === 'answer';
    yield event;
  }
  if (!ended) throw new ApiError(UNREACHABLE);
}

const RETRY_MS = 1500;
const OVER = new Set(['succeeded', 'failed', 'cancelled']);

/**
 * Follow a job to its end. A stream that breaks is taken up again after the last event that was seen.
 * @param {string} jobId @param {AbortSignal} signal
 * @returns {AsyncGenerator<JobEvent>}
 */
export async function* followJob(jobId, signal) {
  let last = '';
  for (;;) {
    try {
      /** @type {Record<string, string>} */
      const headers = last ? { 'Last-Event-ID': last } : {};
      for await (const event of readEvents(await send(`/v1/jobs/${id(jobId)}/events`, { headers, signal }))) {
        last = event.id || last;
        yield event.data;
        if (OVER.has(event.data.status)) return;
      }
      if (OVER.has((await jobs.get(jobId, signal)).status)) return;
    } catch (error) {
      if (!(error instanceof ApiError) || error.type !== 'unreachable') throw error;
    }
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    signal.throwIfAborted();
  }
}

/**
 * Send a form of files and tell how many bytes are on their way (`fetch` cannot).
 * @param {string} path @param {FormData} form @param {AbortSignal} signal @param {(share: number) => void} onProgress
 * @returns {Promise<any>}
 */
async function upload(path, form, signal, onProgress) {
  for (;;) {
    const reply = await sendForm(path, form, signal, onProgress);
    if (reply.ok) return reply.body;
    const refused = new ApiError({ ...reply.body, status: reply.status });
    if (reply.status !== 401 || !(await hooks.wantKey(refused))) throw refused;
  }
}

/** @param {string} path @param {FormData} form @param {AbortSignal} signal @param {(share: number) => void} onProgress */
function sendForm(path, form, signal, onProgress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    const stop = () => request.abort();
    request.open('POST', path);
    for (const [name, value] of Object.entries(authorization())) request.setRequestHeader(name, value);
    request.upload.onprogress = (event) => event.lengthComputable && onProgress(event.loaded / event.total);
    request.onload = () => {
      hooks.reached(true);
      let body = {};
      try {
        body = JSON.parse(request.responseText);
      } catch {
        body = { title: request.statusText };
      }
      resolve({ ok: request.status < 300, status: request.status, body });
    };
    request.onerror = () => {
      hooks.reached(false);
      reject(new ApiError(UNREACHABLE));
    };
    request.onabort = () => reject(new DOMException('stopped', 'AbortError'));
    request.onloadend = () => signal.removeEventListener('abort', stop);
    signal.addEventListener('abort', stop);
    request.send(form);
  });
}

/** @param {string} jobId @param {AbortSignal} [signal] @returns {Promise<Job>} */
const getJob = (jobId, signal) => get(`/v1/jobs/${id(jobId)}`, signal);

export const jobs = {
  /** @param {AbortSignal} [signal] @returns {Promise<{jobs: Job[]}>} */
  list: (signal) => get('/v1/jobs?limit=100', signal),
  get: getJob,
  /** @param {string} jobId @returns {Promise<Job>} */
  cancel: (jobId) => post(`/v1/jobs/${id(jobId)}/cancel`),
};

/** @returns {Promise<{name: string, scopes: string[], collections: string[]}>} */
export const whoAmI = () => get('/v1/me');

/** @param {AbortSignal} [signal] @returns {Promise<{collections: {name: string, documents: number, suggested_adapter: string | null}[]}>} */
export const listCollections = (signal) => get('/v1/collections', signal);

export const collections = {
  /** Its settings in use, and every version of them. @param {string} name @param {AbortSignal} [signal] */
  get: (name, signal) => get(`/v1/collections/${id(name)}`, signal),
  /** @param {string} name @param {Record<string, any>} body */
  put: async (name, body) => (await send(`/v1/collections/${id(name)}`, { method: 'PUT', json: body })).json(),
};

/**
 * The adapter to ask with where nobody chose one; null where there is nothing to suggest.
 * @param {string} collection @param {AbortSignal} [signal] @returns {Promise<string | null>}
 */
export async function suggestedAdapter(collection, signal) {
  const { collections: known } = await listCollections(signal);
  return known.find((each) => each.name === collection)?.suggested_adapter ?? null;
}

/** @param {AbortSignal} [signal] @returns {Promise<{data: {id: string, role: string}[]}>} */
export const listModels = (signal) => get('/v1/models', signal);

/** @param {{answer_id: string, rating?: number, correction?: string}} said @returns {Promise<{pair_id: string | null}>} */
export const giveFeedback = (said) => post('/v1/feedback', said);

export const documents = {
  /** @param {{collection: string, source?: string, cursor?: string | null, limit?: number}} chosen @param {AbortSignal} [signal] */
  list: (chosen, signal) => get(`/v1/documents${query(chosen)}`, signal),
  /** @param {string} documentId @param {AbortSignal} [signal] @returns {Promise<{source: string, text: string}>} */
  text: (documentId, signal) => get(`/v1/documents/${id(documentId)}/text`, signal),
  /** @param {string} documentId @param {AbortSignal} [signal] */
  chunks: (documentId, signal) => get(`/v1/documents/${id(documentId)}/chunks`, signal),
  /** @param {string} documentId */
  remove: (documentId) => remove(`/v1/documents/${id(documentId)}`),
  /** @param {FormData} form @param {AbortSignal} signal @param {(share: number) => void} onProgress */
  upload: (form, signal, onProgress) => upload('/v1/documents', form, signal, onProgress),
  /** @param {FormData} form @param {AbortSignal} signal */
  preview: (form, signal) => upload('/v1/documents/preview', form, signal, () => {}),
};

export const index = {
  /** @param {string} collection @param {AbortSignal} [signal] */
  status: (collection, signal) => get(`/v1/index${query({ collection })}`, signal),
  /** @param {string} collection @returns {Promise<{job_id: string}>} */
  rebuild: (collection) => post('/v1/index/rebuild', { collection }),
  /** @param {string} collection */
  rollback: (collection) => post('/v1/index/rollback', { collection }),
};

export const pairs = {
  /** @param {Record<string, any>} chosen @param {AbortSignal} [signal] */
  list: (chosen, signal) => get(`/v1/pairs${query(chosen)}`, signal),
  /** @param {string} pairId @param {Record<string, string>} changes */
  change: async (pairId, changes) => (await send(`/v1/pairs/${id(pairId)}`, { method: 'PATCH', json: changes })).json(),
  /** @param {string} pairId */
  undo: (pairId) => post(`/v1/pairs/${id(pairId)}/undo`),
  /** @param {string} reviewId */
  undoReview: (reviewId) => post(`/v1/pairs/reviews/${id(reviewId)}/undo`),
  /** @param {Record<string, any>} body */
  bulk: (body) => post('/v1/pairs/bulk', body),
  /** @param {Record<string, any>} chosen @param {AbortSignal} [signal] */
  coverage: (chosen, signal) => get(`/v1/pairs/coverage${query(chosen)}`, signal),
  /** @param {Record<string, any>} body @returns {Promise<{job_id: string}>} */
  generate: (body) => post('/v1/pairs/generate', body),
  /** @param {FormData} form @param {AbortSignal} signal */
  import: (form, signal) => upload('/v1/pairs/import', form, signal, () => {}),
  /** @param {string} collection @returns {Promise<{job_id: string}>} */
  startExport: (collection) => post('/v1/pairs/export', { collection }),
  /** @param {Record<string, any>} chosen @returns {Promise<Blob>} */
  export: async (chosen) => (await send(`/v1/pairs/export${query(chosen)}`)).blob(),
};

export const adapters = {
  /** @param {AbortSignal} [signal] @returns {Promise<{adapters: any[]}>} */
  list: (signal) => get('/v1/adapters', signal),
  /** @param {Record<string, any>} body @returns {Promise<{job_id: string}>} */
  train: (body) => post('/v1/adapters', body),
  /** @param {string} name @param {number} version @param {boolean} force */
  promote: (name, version, force) => post(`/v1/adapters/${id(name)}/promote`, { version, force }),
  /** @param {string} collection */
  rollback: (collection) => post(`/v1/adapters/rollback${query({ collection })}`),
  /** @param {string} name @param {number} version */
  remove: (name, version) => remove(`/v1/adapters/${id(name)}${query({ version })}`),
  /** @param {string} label `name@version`, with its history and what the shadow showed */
  get: (label) => get(`/v1/adapters/${id(label)}`),
  /** @param {string} label what the promotion policy says of it now */
  decision: (label) => get(`/v1/adapters/${id(label)}/decision`),
  /** Let it answer a share of the real questions unseen. @param {string} label */
  shadow: (label) => post(`/v1/adapters/${id(label)}/shadow`),
  /** @param {AbortSignal} [signal] */
  promotions: (signal) => get('/v1/promotions', signal),
  /** @param {AbortSignal} [signal] */
  recipes: (signal) => get('/v1/recipes', signal),
  /** @param {string} label `name@version` @param {AbortSignal} [signal] */
  lineage: (label, signal) => get(`/v1/lineage/adapter/${id(label)}`, signal),
};

export const evaluations = {
  /** @param {AbortSignal} [signal] */
  list: (signal) => get('/v1/evaluations', signal),
  /** @param {Record<string, any>} body @returns {Promise<{job_id: string}>} */
  start: (body) => post('/v1/evaluations', body),
  /** @param {string} evaluationId @returns {Promise<Blob>} */
  report: async (evaluationId) => (await send(`/v1/evaluations/${id(evaluationId)}/report`)).blob(),
};

export const blind = {
  /** @param {{question: string, collection: string, arms: string[]}} body @param {AbortSignal} [signal] */
  start: (body, signal) => post('/v1/blind', body, signal),
  /** @param {string} trialId @param {'A' | 'B' | 'tie'} vote */
  vote: (trialId, vote) => post(`/v1/blind/${id(trialId)}/vote`, { vote }),
  /** @param {string} collection @param {AbortSignal} [signal] */
  standings: (collection, signal) => get(`/v1/blind${query({ collection })}`, signal),
};

export const access = {
  /** @param {AbortSignal} [signal] @returns {Promise<{keys: any[]}>} */
  list: (signal) => get('/v1/keys', signal),
  /** @param {Record<string, any>} body @returns {Promise<{id: string, name: string, key: string}>} shown this once */
  create: (body) => post('/v1/keys', body),
  /** @param {string} keyId */
  revoke: (keyId) => remove(`/v1/keys/${id(keyId)}`),
};

export const system = {
  /** @param {AbortSignal} [signal] */
  settings: (signal) => get('/v1/settings', signal),
  /** @param {AbortSignal} [signal] */
  doctor: (signal) => get('/v1/doctor', signal),
  /** @param {AbortSignal} [signal] */
  routes: (signal) => get('/openapi.json', signal),
  /** @param {AbortSignal} [signal] */
  alive: (signal) => fetch('/healthz', { cache: 'no-store', signal }),
};
