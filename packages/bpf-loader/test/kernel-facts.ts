/** What the kernel says of itself, apart from the loader: tests expect a kind to work, or to be refused as unsupported, by these. */
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { makePins } from './pins.ts';
import { programPath } from './programs.ts';

/** CONFIG_KPROBE_EVENTS. */
export const hasKprobes = (): boolean => existsSync('/sys/bus/event_source/devices/kprobe');
/** CONFIG_UPROBE_EVENTS. */
export const hasUprobes = (): boolean => existsSync('/sys/bus/event_source/devices/uprobe');

/** Whether programs can be put on functions (fentry, fexit, lsm): a hardened kernel may forbid the rewriting of its code that this
 *  takes. Asked of bpftool. */
export const hasTrampolines = (): boolean => {
  using pins = makePins();
  const { status } = spawnSync('bpftool', ['prog', 'loadall', programPath('attach_trampoline'), pins.at('tried')]);
  return status === 0;
};

/** Names in `/sys/kernel/security/lsm`, wherever it can be read. */
export const securityModules = (): string[] => {
  const folder = mkdtempSync(join(tmpdir(), 'aegis-securityfs-'));
  try {
    execFileSync('mount', ['-t', 'securityfs', 'none', folder]);
    try {
      return readFileSync(join(folder, 'lsm'), 'utf8').trim().split(',');
    } finally {
      execFileSync('umount', [folder]);
    }
  } finally {
    rmdirSync(folder);
  }
};
