/** A folder of a test's own in bpffs, gone with all its pins on dispose. Mounts bpffs where it is missing. */
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdirSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { needRoot } from './commands.ts';

const BPFFS = '/sys/fs/bpf';

export interface Pins extends Disposable {
  readonly path: string;
  at(name: string): string;
  list(): string[];
}

export const makePins = (): Pins => {
  needRoot();
  // Under a lock: a second mount would hide the pins of the first.
  const mount = `[ "$(stat -f -c %T ${BPFFS})" = bpf_fs ] || mount -t bpf bpf ${BPFFS}`;
  execFileSync('flock', [join(tmpdir(), 'aegis-bpffs.lock'), 'sh', '-c', mount]);
  const path = join(BPFFS, `aegis-test-${randomBytes(4).toString('hex')}`);
  mkdirSync(path);
  return {
    path,
    at: (name) => join(path, name),
    list: () => readdirSync(path).sort(),
    [Symbol.dispose]: () => rmSync(path, { recursive: true, force: true }),
  };
};
