import { expect, test } from 'vitest';
import type { Bus } from '../platform/bus.ts';
import { silentLog } from '../platform/log.ts';
import { tokenWatch } from './tokens-watch.ts';

const stage = () => {
  const good = new Set(['a', 'b']);
  const published: string[] = [];
  const remote = new Map<string, (rest: string | null) => void>();
  const asked: string[][] = [];
  const bus: Bus = {
    publish: (topic) => void published.push(topic),
    subscribe: () => ({ [Symbol.dispose]: () => undefined }),
    onRemote: (kind, listener) => void remote.set(kind, listener),
    size: () => 0,
  };
  const watch = tokenWatch({
    goodOf: async (ids) => {
      asked.push([...ids]);
      return good;
    },
    bus,
    stopping: AbortSignal.abort(), // no loop: only what is told counts here
    log: silentLog(),
  });
  const cut: string[] = [];
  const open = (id: string, name: string) => watch.watch(id, () => cut.push(name));
  const settled = () => new Promise((resolve) => setImmediate(resolve));
  return { good, published, remote, asked, watch, cut, open, settled };
};

test('a revocation here cuts at once and is told to the others, with the id alone', async () => {
  const { good, published, watch, cut, open, settled } = stage();
  open('a', 'first');
  open('a', 'second');
  open('b', 'third');
  good.delete('a');
  watch.revoked('a');
  await settled();
  expect([cut, published]).toEqual([['first', 'second'], ['access-revoked:a']]);
  watch.revoked('a');
  await settled();
  expect(cut).toEqual(['first', 'second']);
});

test('one that another process tells of, or may have told of, makes it look; the database decides', async () => {
  const { good, remote, cut, open, settled } = stage();
  open('a', 'first');
  remote.get('access-revoked')?.('a');
  await settled();
  expect(cut).toEqual([]);
  good.delete('a');
  remote.get('access-revoked')?.(null);
  await settled();
  expect(cut).toEqual(['first']);
});

test('an answer that is over is not cut, and nothing is asked when none is open', async () => {
  const { good, asked, watch, cut, open, settled } = stage();
  const over = open('a', 'first');
  const rest = open('a', 'second');
  over();
  over();
  good.delete('a');
  watch.revoked('a');
  await settled();
  rest();
  watch.revoked('a');
  await settled();
  expect([cut, asked]).toEqual([['second'], [['a']]]);
});
