import { chmodSync, mkdirSync, mkdtempSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { silentLog } from '../platform/log.ts';
import { policyKeeper, readPolicyFile } from './policy-file.ts';

let folder: string;
let path: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'aegis-policy-'));
  path = join(folder, 'policy.toml');
});
afterEach(() => rmSync(folder, { recursive: true }));

const write = (text: string, mode = 0o644): void => {
  writeFileSync(`${path}.new`, text);
  chmodSync(`${path}.new`, mode);
  renameSync(`${path}.new`, path);
};
const keeper = () => policyKeeper({ path, clock: { now: () => 0, monotonic: () => 0 }, log: silentLog() });

test('absent means the server, and a node may become strict while it runs', () => {
  const policy = keeper();
  expect([policy.current(), policy.status()]).toEqual([
    { obey: 'server' },
    { file: null, sha256: null, obey: 'server', read_at: '1970-01-01T00:00:00.000Z', error: null },
  ]);
  write('obey = "operators"\n');
  expect([policy.current(), policy.status().file]).toEqual([{ obey: 'operators' }, path]);
});

test('what is there and not right keeps a daemon from starting, and a running one keeps the last good', () => {
  write('obey = { threshold = 2 }\n[cancel]\nobey = "operators"\n');
  const policy = keeper();
  const good = { obey: { threshold: 2 }, cancel: { obey: 'operators' } };
  expect(policy.current()).toEqual(good);
  const wrong: [string, () => void, string][] = [
    ['no TOML', () => write('obey = '), 'it is not TOML'],
    ['no policy', () => write('obey = "root"'), 'policy.obey'],
    ['empty, as while somebody writes it', () => write(''), 'policy.obey'],
    ['a comment alone', () => write('# to be done\n'), 'policy.obey'],
    ['writable by a group', () => write('obey = "server"', 0o664), 'others could write'],
    ['writable by all', () => write('obey = "server"', 0o646), 'others could write'],
    ['too large', () => write(`# ${'x'.repeat(300_000)}`), 'larger than 256 KiB'],
    [
      'a symbolic link',
      () => {
        writeFileSync(join(folder, 'other'), 'obey = "server"');
        rmSync(path);
        symlinkSync(join(folder, 'other'), path);
      },
      'symbolic link',
    ],
    [
      'a folder',
      () => {
        rmSync(path);
        mkdirSync(path);
      },
      'it is not a file',
    ],
  ];
  for (const [, change, why] of wrong) {
    change();
    expect(keeper).toThrow(why);
    expect(policy.current()).toEqual(good);
    expect(policy.status().error).toMatch(/^.*The last good one stays in force\.$/);
  }
  rmSync(path, { recursive: true });
  expect(policy.current()).toEqual(good);
  expect(policy.status()).toMatchObject({ file: path, error: expect.stringContaining('is gone') });
  write('obey = "operators"');
  expect([policy.current(), policy.status().error]).toEqual([{ obey: 'operators' }, null]);
});

test('a folder that others may write is no place for it, unless they cannot replace what is in it', () => {
  write('obey = "operators"');
  chmodSync(folder, 0o777);
  expect(() => readPolicyFile(path)).toThrow("run 'chmod go-w");
  chmodSync(folder, 0o1777);
  expect(readPolicyFile(path)?.policy).toEqual({ obey: 'operators' });
});
