import type { Endpoint } from '@aegis/protocol/endpoint';
import { isErrorCode } from '@aegis/protocol/errors';
import { seededRandom } from '../faults/bad-network.ts';
import { type Asked, exchangeWith, formFault, type Told } from './exchange.ts';
import { requestOf, type Staged } from './samples.ts';

/** Sends random and mutated requests: good ones of every endpoint with flipped bytes, swapped types, cut ends, doubled fields and
 *  other callers. Repeatable by its seed. What it looks for: a known status, a known code, the one error form, and no 500. */
export interface FuzzOutcome {
  /** What must not have been, with the request that led to it; the first few. */
  faults: string[];
  accepted: number;
  refused: number;
  /** Long polls and followed logs that a mutation asked for. */
  givenUp: number;
  byStatus: Record<string, number>;
}

const MAX_FAULTS = 20;
const GIVE_UP_MS = 5000;
const LANES = 8;
/** Those that may rightly be kept waiting. */
const WAITING = new Set(['pollCommands', 'readLogs', 'readEvents']);
const WAIT_MS = 200;
/** Busy or out of room is an answer; a failure is not. 405 and 404: a mutated path. */
const STATUSES = new Set([200, 201, 202, 204, 206, 400, 401, 403, 404, 405, 409, 413, 415, 416, 422, 429, 431, 503]);

export const fuzz = async (on: {
  staged: Staged;
  endpoints: readonly Endpoint[];
  count: number;
  seed: number;
  progress?: (done: number) => void;
}): Promise<FuzzOutcome> => {
  using exchange = exchangeWith(on.staged.url);
  const outcome: FuzzOutcome = { faults: [], accepted: 0, refused: 0, givenUp: 0, byStatus: {} };
  let next = 0;
  const lane = async (): Promise<void> => {
    for (let nth = next++; nth < on.count; nth = next++) {
      const { endpoint, asked } = mutated(on.staged, on.endpoints, on.seed + nth);
      const told = await exchange
        .orGiveUp({ ...asked, giveUpMs: WAITING.has(endpoint.id) ? WAIT_MS : GIVE_UP_MS })
        .catch((error: unknown) => String(error));
      judge(outcome, endpoint, asked, told, on.seed + nth);
      if (nth % 1000 === 0) on.progress?.(nth);
    }
  };
  await Promise.all(Array.from({ length: LANES }, lane));
  return outcome;
};

const judge = (
  outcome: FuzzOutcome,
  endpoint: Endpoint,
  asked: Asked,
  told: Told | string | null,
  seed: number,
): void => {
  const fault = (what: string): void => {
    if (outcome.faults.length < MAX_FAULTS)
      outcome.faults.push(
        `seed ${seed}: ${endpoint.id} ${asked.method} ${asked.path.slice(0, 300)} ${String(asked.body).slice(0, 1500)} → ${what}`,
      );
  };
  if (typeof told === 'string') {
    fault(told);
    return;
  }
  if (told === null) {
    outcome.givenUp++;
    if (!WAITING.has(endpoint.id)) fault('no answer');
    return;
  }
  const { status, headers, text } = told;
  outcome.byStatus[status] = (outcome.byStatus[status] ?? 0) + 1;
  if (status < 400) outcome.accepted++;
  else outcome.refused++;
  if (!STATUSES.has(status)) fault(`${status} ${text}`);
  else if (status === 416 || (status >= 400 && asked.method === 'HEAD')) return;
  else if (status === 431 || (status >= 400 && headers.connection === 'close' && status === 400)) {
    const { error } = JSON.parse(text) as { error: { code: string } }; // read before it was HTTP: no header to compare with
    if (!isErrorCode(error.code)) fault(`code ${error.code}`);
  } else if (status >= 400) {
    const wrong = formFault(told);
    if (wrong) fault(wrong);
  }
};

type Random = () => number;
const pick = <T>(random: Random, from: readonly T[]): T => {
  const one = from[Math.floor(random() * from.length)];
  if (one === undefined) throw new RangeError('nothing to pick from');
  return one;
};

const mutated = (
  staged: Staged,
  endpoints: readonly Endpoint[],
  seed: number,
): { endpoint: Endpoint; asked: Asked } => {
  const random = seededRandom(seed);
  for (let at = 0; at < 3; at++) random(); // neighbouring seeds begin alike
  const endpoint = pick(random, endpoints);
  let asked = requestOf(staged, endpoint);
  for (let times = 1 + Math.floor(random() * 3); times > 0; times--)
    asked = pick(random, MUTATIONS)(asked, random, staged);
  // Never a body that the client cannot send, and no retirement of the nodes that the rest needs.
  if (endpoint.id === 'apiRetireNode' && asked.path === requestOf(staged, endpoint).path)
    asked = { ...asked, method: 'GET' };
  return { endpoint, asked };
};

const ODD_VALUES: readonly unknown[] = [
  null,
  true,
  false,
  0,
  -1,
  1.5,
  1e308,
  Number.MAX_SAFE_INTEGER,
  2 ** 53,
  -0,
  '',
  ' ',
  '0',
  'null',
  'true',
  '\0',
  '\ud800',
  '\u{1f4a5}',
  '../../etc/passwd',
  "'; DROP TABLE nodes; --",
  '%00',
  '{{7*7}}',
  'a'.repeat(5000),
  [],
  {},
  [[]],
  [null],
  { length: 5 },
  { toString: 1 },
  '2026-02-30T25:61:00Z',
  '9999-12-31T23:59:59Z',
  '00000000-0000-0000-0000-000000000000',
];
const ODD_BYTES = ['\0', '\n', '"', '\\', '{', '}', '[', ']', '%', ',', ':', '-', 'e', '9', '\xff'];

type Mutation = (asked: Asked, random: Random, staged: Staged) => Asked;

const bytesOf = (body: Asked['body']): Buffer => Buffer.from(body ?? '');
const jsonOf = (body: Asked['body']): unknown => {
  try {
    return JSON.parse(String(body));
  } catch {
    return undefined; // mutated before: not JSON any more
  }
};
/** Every place of a JSON value, as path. */
const places = (value: unknown, path: string[] = []): string[][] =>
  typeof value === 'object' && value !== null
    ? Object.entries(value).flatMap(([name, inner]) => [[...path, name], ...places(inner, [...path, name])])
    : [];
const at = (value: unknown, path: readonly string[]): Record<string, unknown> =>
  path.slice(0, -1).reduce((inner, name) => (inner as Record<string, unknown>)[name], value) as Record<string, unknown>;

const inJson =
  (change: (holder: Record<string, unknown>, name: string, random: Random, whole: unknown) => void): Mutation =>
  (asked, random) => {
    const value = jsonOf(asked.body);
    const all = places(value);
    if (all.length === 0) return asked;
    const path = pick(random, all);
    change(at(value, path), path.at(-1) ?? '', random, value);
    return { ...asked, body: JSON.stringify(value) };
  };

const MUTATIONS: readonly Mutation[] = [
  (asked) => asked,
  // Bytes.
  (asked, random) => {
    const bytes = bytesOf(asked.body);
    for (let times = Math.floor(random() * 4) + 1; bytes.length > 0 && times > 0; times--)
      bytes[Math.floor(random() * bytes.length)] = Math.floor(random() * 256);
    return { ...asked, body: bytes };
  },
  (asked, random) => {
    const bytes = bytesOf(asked.body);
    return { ...asked, body: bytes.subarray(0, Math.floor(random() * bytes.length)) };
  },
  (asked, random) => {
    const bytes = bytesOf(asked.body);
    const where = Math.floor(random() * bytes.length);
    return {
      ...asked,
      body: Buffer.concat([
        bytes.subarray(0, where),
        Buffer.from(pick(random, ODD_BYTES), 'latin1'),
        bytes.subarray(where),
      ]),
    };
  },
  // Values and fields.
  inJson((holder, name, random) => {
    holder[name] = pick(random, ODD_VALUES);
  }),
  inJson((holder, name, random) => {
    holder[name] = pick(random, ODD_VALUES);
  }),
  inJson((holder, name) => {
    delete holder[name];
  }),
  inJson((holder, name, random, whole) => {
    const from = pick(random, places(whole));
    holder[name] = structuredClone(at(whole, from)[from.at(-1) ?? '']);
  }),
  inJson((holder, name) => {
    holder[`${name}x`] = holder[name];
  }),
  inJson((holder, name, random) => {
    const value = holder[name];
    if (typeof value === 'string' && value.length > 0) {
      const where = Math.floor(random() * value.length);
      holder[name] = value.slice(0, where) + pick(random, ODD_BYTES) + value.slice(where + 1);
    } else if (typeof value === 'number') holder[name] = Math.round((random() - 0.3) * 10 ** Math.floor(random() * 17));
    else if (Array.isArray(value))
      holder[name] = Array.from({ length: Math.floor(random() * 200) }, () => structuredClone(value[0]));
  }),
  // Path, query, method.
  (asked, random) => {
    const where = Math.floor(random() * (asked.path.length - 1)) + 1;
    const odd = encodeURIComponent(String(pick(random, ODD_BYTES)));
    return { ...asked, path: asked.path.slice(0, where) + odd + asked.path.slice(where + Math.floor(random() * 3)) };
  },
  (asked, random) => {
    const [path = '', query = ''] = asked.path.split('?');
    const search = new URLSearchParams(query);
    const name = pick(random, [
      'limit',
      'cursor',
      'wait',
      'resume',
      'offset',
      'stream',
      'node',
      'attempt',
      'follow',
      'from',
      'label',
      'status',
      'site',
      'agent',
    ]);
    const value = pick(random, ODD_VALUES);
    search.append(name, typeof value === 'string' ? value.toWellFormed() : JSON.stringify(value));
    return { ...asked, path: `${path}?${search}` };
  },
  (asked, random) => ({ ...asked, method: pick(random, ['GET', 'POST', 'PUT', 'PATCH', 'DELETE', 'HEAD', 'OPTIONS']) }),
  // Headers and callers.
  (asked, random, { bearers }) => ({
    ...asked,
    headers: { ...asked.headers, authorization: `Bearer ${pick(random, Object.values(bearers))}` },
  }),
  (asked, random) => {
    const { authorization = 'Bearer x' } = asked.headers ?? {};
    const where = 7 + Math.floor(random() * (authorization.length - 7));
    return {
      ...asked,
      headers: {
        ...asked.headers,
        authorization: `${authorization.slice(0, where)}A${authorization.slice(where + 1)}`,
      },
    };
  },
  (asked, random) => ({
    ...asked,
    headers: {
      ...asked.headers,
      [pick(random, [
        'content-type',
        'content-encoding',
        'accept',
        'range',
        'idempotency-key',
        'host',
        'origin',
        'x-request-id',
      ])]: pick(random, [
        'application/json',
        'application/octet-stream',
        'application/x-ndjson',
        'text/event-stream',
        'gzip',
        'zstd',
        'bytes=0-',
        'bytes=5-1',
        'bytes=99-',
        '*/*',
        '',
        'x'.repeat(300),
        'null',
      ]),
    },
  }),
];
