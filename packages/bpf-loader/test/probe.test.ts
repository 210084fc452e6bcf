import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { machine, release, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, expect, test } from 'vitest';
import { ATTACH_SINCE } from '../src/kernel-types.ts';
import { type KernelReport, probeKernel } from '../src/probe.ts';
import { cgroup2Mount, scratchCgroup, scratchNetns } from '../src/probe-places.ts';
import { tinyObject } from '../src/tiny-object.ts';
import type { AttachKind } from '../src/types.ts';
import { bpftool, needRoot, run, until } from './commands.ts';
import { list, record } from './fixture.ts';
import { hasKprobes, hasTrampolines, hasUprobes, securityModules } from './kernel-facts.ts';
import { makePins } from './pins.ts';

const temporary = mkdtempSync(join(tmpdir(), 'aegis-probing-'));
afterAll(() => rmSync(temporary, { recursive: true, force: true }));

needRoot();

const KINDS = Object.keys(ATTACH_SINCE) as AttachKind[];

/** What the probe of that process made and left. Others may be probing at this moment, so tests wait for an end of their programs; and some of
 *  them are killed on purpose, so that their cgroups stay for a while. */
const leftBehind = async (pid: number): Promise<unknown[]> => {
  const programs = list(await bpftool(['prog', 'show'])).filter((one) => record(one).name === 'probe');
  const mount = cgroup2Mount();
  const cgroups = mount ? readdirSync(mount).filter((name) => name.startsWith(`aegis-probe-${pid}-`)) : [];
  return [...programs, ...cgroups, ...readdirSync(temporary)];
};

test('every kind is reported as the kernel is, and nothing is left behind', async () => {
  const report = await probeKernel({ temporary });
  expect({ ...report, kinds: {} }).toEqual({
    release: release(),
    architecture: machine(),
    btf: existsSync('/sys/kernel/btf/vmlinux'),
    bpffs: true,
    cgroup2: cgroup2Mount(),
    jit: true,
    unprivilegedDisabled: (await run(['cat', '/proc/sys/kernel/unprivileged_bpf_disabled'])).trim() !== '0',
    kinds: {},
  });
  const trampolines = hasTrampolines();
  const missing: Partial<Record<AttachKind, boolean>> = {
    kprobe: !hasKprobes(),
    kretprobe: !hasKprobes(),
    uprobe: !hasUprobes(),
    uretprobe: !hasUprobes(),
    fentry: !trampolines,
    fexit: !trampolines,
    lsm: !trampolines || !securityModules().includes('bpf'),
  };
  for (const kind of KINDS) {
    const expected = missing[kind]
      ? { works: false, reason: expect.stringMatching(/^[A-Z].*\.$/), since: ATTACH_SINCE[kind] }
      : { works: true };
    expect({ kind, ...report.kinds[kind] }).toEqual({ kind, ...expected });
  }
  expect(Object.keys(report.kinds).sort()).toEqual([...KINDS].sort());
  await until('nothing left behind', async () => (await leftBehind(process.pid)).length === 0);
});

test('a cgroup that a probe left when it was killed goes with a later one', async () => {
  const mount = join(temporary, 'mount'); // folders do as well, and no probe beside this one is met
  const left = join(mount, 'aegis-probe-1-000000000000');
  mkdirSync(left, { recursive: true });
  const { path, ...place } = scratchCgroup(mount);
  expect(existsSync(left)).toBe(true);
  await place[Symbol.asyncDispose]();
  const { path: later } = scratchCgroup(mount, Date.now() + 61_000);
  expect([existsSync(left), existsSync(path), existsSync(later)]).toEqual([false, false, true]);
  rmSync(mount, { recursive: true });
});

test('without capabilities every kind is refused with a reason, and nothing is left behind', async () => {
  const module = fileURLToPath(new URL('../src/probe.ts', import.meta.url));
  const script = join(temporary, 'probe.mjs');
  const options = JSON.stringify({ temporary });
  writeFileSync(
    script,
    `const { probeKernel } = await import(${JSON.stringify(module)});\nconsole.log(JSON.stringify([process.pid, await probeKernel(${options})]));\n`,
  );
  const without = ['setpriv', '--bounding-set=-all', '--inh-caps=-all', '--'];
  const [pid, report] = JSON.parse(await run([...without, process.execPath, script])) as [number, KernelReport];
  rmSync(script);
  for (const kind of KINDS)
    expect({ kind, ...report.kinds[kind] }).toMatchObject({
      kind,
      works: false,
      reason: expect.stringMatching(/^[A-Z].*\.$/),
    });
  expect(report.kinds.xdp.reason).toContain('CAP_BPF');
  await until('nothing left behind', async () => (await leftBehind(pid)).length === 0);
});

test('within a network namespace, where its setting is not to be seen, the JIT is found on', async () => {
  const module = new URL('../src/probe.ts', import.meta.url).href;
  const setting = '/proc/sys/net/core/bpf_jit_enable';
  const lines = [
    "import { existsSync } from 'node:fs';",
    `const { probeKernel } = await import(${JSON.stringify(module)});`,
    `const { jit } = await probeKernel(${JSON.stringify({ temporary })});`,
    `console.log(JSON.stringify({ jit, visible: existsSync('${setting}') }));`,
  ];
  const script = join(temporary, 'probe-within.mjs');
  writeFileSync(script, lines.join('\n'));
  const within = JSON.parse(await run(['unshare', '--net', '--', process.execPath, script])) as unknown;
  rmSync(script);
  expect(within).toEqual({ jit: true, visible: false });
});

test('a scratch namespace has only its own lo, and is gone when it is disposed', async () => {
  let path = '';
  {
    await using netns = await scratchNetns();
    path = netns.path;
    const links = JSON.parse(await run(['nsenter', `--net=${path}`, '--', 'ip', '-j', 'link'])) as {
      ifname: string;
      operstate: string;
    }[];
    expect(links.find(({ ifname }) => ifname === 'lo')?.operstate).toBe('DOWN');
    expect(links.filter(({ operstate }) => operstate === 'UP')).toEqual([]);
  }
  await until('the end of the namespace', () => !existsSync(path));
});

test('the tiny object is one that stock tools load, and returns what it was told', async () => {
  using pins = makePins();
  const path = join(temporary, 'tiny.o');
  writeFileSync(path, tinyObject(2));
  await run(['bpftool', 'prog', 'load', path, pins.at('tiny'), 'type', 'xdp']);
  const packet = join(temporary, 'packet');
  writeFileSync(packet, Buffer.alloc(64));
  const outcome = record(await bpftool(['prog', 'run', 'pinned', pins.at('tiny'), 'data_in', packet]));
  expect(outcome.retval).toBe(2);
  rmSync(path);
  rmSync(packet);
});
