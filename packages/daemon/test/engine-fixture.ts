import { execFileSync, spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { AttachTo } from '@aegis/protocol/artifacts/attach-point';
import type { ConstantType, ConstantValue } from '@aegis/protocol/artifacts/constants';
import type { MapRule } from '@aegis/protocol/artifacts/manifest';
import { type FaultPoints, noFaultPoints } from '@aegis/protocol/fault-points';
import * as z from 'zod/mini';
import type { Deployment } from '../src/artifacts/deployment.ts';
import { type Engine, type KernelEngineOptions, kernelEngine } from '../src/artifacts/kernel/engine.ts';
import { systemClock } from '../src/platform/clock.ts';
import { silentLog } from '../src/platform/log.ts';

/** What the tests of the kernel engine share: compiled programs, a bpf file system of their own, and deployments in one line. */

const here = fileURLToPath(new URL('bpf', import.meta.url));

const folder = process.env.ENGINE_TEST_OBJECTS ?? fileURLToPath(new URL('../build/bpf', import.meta.url));
const known = new Set<string>();

/** Path of a file that a compiler makes of one source: once, and again when the source is newer. Safe from several test files. */
const compiled = (name: string, source: string, compiler: readonly string[]): string => {
  const path = join(folder, name);
  if (known.has(name) || process.env.ENGINE_TEST_OBJECTS) return path;
  mkdirSync(folder, { recursive: true });
  const make = `[ "$0" -nt "$1" ] || { out=$0 in=$1; shift; "$@" "$in" -o "$out.tmp" && mv "$out.tmp" "$out"; }`;
  execFileSync('flock', [join(folder, '.lock'), 'sh', '-c', make, path, join(here, source), ...compiler], {
    stdio: 'inherit',
  });
  known.add(name);
  return path;
};

export const objectBytes = (name: string): Buffer => {
  // Debian keeps asm/ in a folder of the machine's name, which clang does not look into for -target bpf.
  const machine = { x64: 'x86_64', arm64: 'aarch64' }[process.arch as string] ?? process.arch;
  const clang = `clang -O2 -g -target bpf -mcpu=v3 -Wall -Werror -I/usr/include/${machine}-linux-gnu -c`.split(' ');
  return readFileSync(compiled(`${name}.bpf.o`, `${name}.bpf.c`, clang));
};
/** For processes that a test starts: they need not compile. */
export const objectsFolder = (...names: readonly string[]): string => {
  for (const name of names) objectBytes(name);
  return folder;
};

export const trafficProgram = (): string => compiled('traffic', 'traffic.c', ['cc', '-O2', '-Wall', '-Werror']);

export interface Traffic extends Disposable {
  readonly pid: number;
  /** Ends it: one count for each port. */
  counts(): Promise<number[]>;
}

/** Starts a traffic program and waits until it says that it is ready. */
export const startTraffic = async (argv: readonly string[]): Promise<Traffic> => {
  const [file = '', ...args] = argv;
  const child = spawn(file, args, { stdio: ['pipe', 'pipe', 'inherit'] });
  let text = '';
  const ended = new Promise<void>((resolve) => child.once('close', () => resolve()));
  await new Promise<void>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', () => reject(new Error(`${argv.join(' ')} ended: ${text}`)));
    child.stdout.on('data', (more: Buffer) => {
      text += more.toString();
      if (text.startsWith('ok\n')) resolve();
    });
  });
  return {
    pid: child.pid ?? 0,
    counts: async () => {
      child.stdin.end();
      await ended;
      return text.split('\n')[1]?.split(' ').map(Number) ?? [];
    },
    [Symbol.dispose]: () => void child.kill('SIGKILL'),
  };
};

/** A bpf file system of a test's own: unmounted, it is what a reboot leaves. */
export interface ScratchBpffs extends Disposable {
  readonly path: string;
  readonly nodeUid: string;
  /** All names below our folder, sorted, as paths. */
  tree(): string[];
  /** A file system without pins. Links that nobody else holds are gone. */
  forget(): void;
}

export const scratchBpffs = (): ScratchBpffs => {
  const path = mkdtempSync(join(tmpdir(), 'aegis-engine-bpffs-'));
  const nodeUid = `test-${randomBytes(6).toString('hex')}`;
  const mount = (): void => void execFileSync('mount', ['-t', 'bpf', 'aegis-test', path]);
  const unmount = (): void => void execFileSync('umount', [path]);
  mount();
  const walk = (at: string, name: string): string[] =>
    readdirSync(at, { withFileTypes: true }).flatMap((one) => {
      const inner = name === '' ? one.name : `${name}/${one.name}`;
      return one.isDirectory() ? [inner, ...walk(join(at, one.name), inner)] : [inner];
    });
  return {
    path,
    nodeUid,
    // Every bpf file system shows two files of the kernel's own.
    tree: () =>
      walk(path, '')
        .filter((name) => !/^(maps|progs)\.debug$/.test(name))
        .sort(),
    forget: () => {
      unmount();
      mount();
    },
    [Symbol.dispose]: () => {
      unmount();
      rmSync(path, { recursive: true, force: true });
    },
  };
};

export interface EngineFixture extends Disposable {
  readonly bpffs: ScratchBpffs;
  readonly engine: Engine;
  /** Another engine over the same pins: what a daemon that starts again is. */
  restart(options?: Partial<KernelEngineOptions>): Engine;
}

export const engineFixture = (options: Partial<KernelEngineOptions> = {}): EngineFixture => {
  const bpffs = scratchBpffs();
  const made: Engine[] = [];
  const start = (more: Partial<KernelEngineOptions> = {}): Engine => {
    const engine = kernelEngine({
      nodeUid: bpffs.nodeUid,
      bpffs: bpffs.path,
      faults: noFaultPoints,
      log: silentLog(),
      clock: systemClock,
      networkTtlMs: 0,
      ...options,
      ...more,
    });
    made.push(engine);
    return engine;
  };
  return {
    bpffs,
    engine: start(),
    restart: start,
    [Symbol.dispose]: () => {
      for (const engine of made) engine.close();
      bpffs[Symbol.dispose]();
    },
  };
};

/** Calls `act` the nth time that the point is passed. */
export const faultAt = (name: string, act: () => void, nth = 1): FaultPoints => {
  let passed = 0;
  return {
    at: (point) => {
      if (point === name && ++passed === nth) act();
    },
  };
};

export interface DeploymentText {
  name?: string;
  version?: number;
  object?: string;
  programs: readonly { name: string; attach: z.input<typeof AttachTo> }[];
  constants?: readonly { name: string; type: ConstantType; value: ConstantValue }[];
  maps?: readonly (Partial<MapRule> & { name: string })[];
}

/** `version` is also a constant of all test programs: each number is another revision. */
export const deployment = ({
  name = 'filter',
  version = 1,
  object = 'filter',
  programs,
  constants = [],
  maps = [],
}: DeploymentText): Deployment => {
  const all = [{ name: 'version', type: 'u32' as const, value: version }, ...constants];
  const rules = maps.map((rule) => ({ keep: false, ...rule }));
  const parsed = programs.map((program) => ({ name: program.name, attach: z.parse(AttachTo, program.attach) }));
  const text = JSON.stringify([object, all, parsed, rules]);
  return {
    name,
    version: `1.0.${version}`,
    generation: version,
    revision: createHash('sha256').update(text).digest('hex').slice(0, 16),
    programs: parsed,
    constants: all,
    maps: rules,
    features: [],
    bytes: async () => ({ objects: new Map([[`${object}.bpf.o`, objectBytes(object)]]) }),
  };
};

export const bpftool = (...args: string[]): unknown =>
  JSON.parse(execFileSync('bpftool', ['--json', ...args], { encoding: 'utf8' }) || 'null');

/** Runs `ip` and fails with what it said. */
export const ip = (...args: string[]): string => execFileSync('ip', args, { encoding: 'utf8' });

export interface TestCgroup extends Disposable {
  /** Below the cgroup2 mount, as manifests write it. */
  readonly name: string;
  readonly path: string;
}
export const testCgroup = (root: string, name = `/aegis-engine-${randomBytes(4).toString('hex')}`): TestCgroup => {
  const path = join(root, name);
  mkdirSync(path);
  return {
    name,
    path,
    [Symbol.dispose]: () => {
      if (statSync(path, { throwIfNoEntry: false })) execFileSync('rmdir', [path]);
    },
  };
};
