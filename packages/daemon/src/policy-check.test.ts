import { chownSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir, userInfo } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { readPolicyFile } from './access/policy-file.ts';
import { accountLookup } from './commands/process-spec.ts';

/** Who asks about a node's policy is not always the user that its daemon runs as: the answer is for that one. */

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'aegis-policy-check-'));
});
afterEach(() => rmSync(folder, { recursive: true }));

test('a command that names no user is for the one that the daemon runs as', () => {
  const passwd = join(folder, 'passwd');
  writeFileSync(passwd, 'root:x:0:0::/root:/bin/bash\naegis:x:4242:4242::/var/lib/aegis:/bin/sh\n');
  expect(accountLookup(passwd, 4242)(null)).toEqual({ name: 'aegis', home: '/var/lib/aegis', shell: '/bin/sh' });
  expect(accountLookup(passwd, 4243)(null).name).toBe('4243');
  expect(accountLookup(passwd)(null).name).toBe(userInfo().username);
});

test("a policy may belong to root or to the daemon's user, whoever reads it", () => {
  const path = join(folder, 'policy.toml');
  writeFileSync(path, 'obey = "operators"\n', { mode: 0o600 });
  const own = process.geteuid?.() ?? 0;
  expect(readPolicyFile(path, own)?.policy).toEqual({ obey: 'operators' });
  if (own === 0) chownSync(path, 4242, 4242);
  const owner = own === 0 ? 4242 : own;
  expect(readPolicyFile(path, owner)?.policy).toEqual({ obey: 'operators' });
  expect(() => readPolicyFile(path, owner + 1)).toThrow(`belongs to uid ${owner}`);
});
