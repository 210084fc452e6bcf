import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { LoaderError, permissionHints } from '../src/errors.ts';
import { inspectObject } from '../src/inspect.ts';
import { enableStats, linkIds, mapIds, programIds } from '../src/kernel.ts';
import { addon, findAddon, loaderAvailable } from '../src/loader.ts';
import { mapById, openMap } from '../src/maps.ts';
import { loadObject } from '../src/object.ts';
import { openProgram, programById } from '../src/program.ts';
import type { LoadOptions } from '../src/types.ts';
import { bpftool } from './commands.ts';
import { list, record } from './fixture.ts';
import { frame, XDP_PASS } from './packets.ts';
import { makePins } from './pins.ts';
import { programBytes, programPath } from './programs.ts';

/** Loading: what is loaded, what is kept by pins, what is refused and with which words. */

const failure = async (loading: Promise<unknown>): Promise<LoaderError> => {
  const thrown: unknown = await loading.then(
    () => null,
    (error: unknown) => error,
  );
  if (!(thrown instanceof LoaderError)) throw new Error(`no LoaderError: ${String(thrown)}`);
  return thrown;
};

test('a loaded program is what bpftool sees, and gone when it is disposed', async () => {
  let id = 0;
  {
    using object = await loadObject(programBytes('many_programs'), { programs: [{ name: 'at_xdp' }] });
    expect([...object.programs.keys()]).toEqual(['at_xdp']);
    const info = object.program('at_xdp').info();
    id = info.id;
    const seen = record(await bpftool(['prog', 'show', 'id', `${id}`]));
    expect(info).toMatchObject({
      name: seen.name,
      type: seen.type,
      tag: seen.tag,
      mapIds: seen.map_ids,
      btfId: seen.btf_id,
      instructions: Number(seen.bytes_xlated) / 8,
      jitedBytes: seen.bytes_jited,
      memlockBytes: seen.bytes_memlock,
      runCount: 0,
    });
    // bpftool rounds to seconds.
    expect(Math.abs(info.loadedAt / 1000 - Number(seen.loaded_at))).toBeLessThan(2);
    expect(programIds()).toContain(id);
    using again = programById(id);
    expect(again.info().tag).toBe(info.tag);
  }
  expect(programIds()).not.toContain(id);
});

test('the attachment of a program says its type where the section does not', async () => {
  const point = { kind: 'tcx', interface: 'lo', direction: 'ingress' } as const;
  const programs = ['one', 'two'].map((name) => ({ name, attach: point }));
  using object = await loadObject(programBytes('attach_tc'), { programs });
  expect([...object.programs.values()].map(({ name, type }) => [name, type])).toEqual([
    ['one', 'sched_cls'],
    ['two', 'sched_cls'],
  ]);
});

test('a map is kept by its pin, with what is in it, and refused when it is of another shape', async () => {
  using pins = makePins();
  const keep = (more: { maxEntries?: number } = {}): LoadOptions => ({
    name: 'keeper',
    maps: [{ name: 'lengths', pinPath: pins.at('lengths'), ...more }],
  });
  const key = Buffer.from([3, 0, 0, 0]);
  const value = Buffer.alloc(8, 7);
  {
    using first = await loadObject(programBytes('map_arrays'), keep());
    first.map('lengths').update(key, value);
  }
  using second = await loadObject(programBytes('map_arrays'), keep());
  expect(second.map('lengths').lookup(key)).toEqual(value);
  using pinned = openMap(pins.at('lengths'));
  expect(pinned.info().id).toBe(second.map('lengths').info().id);

  const error = await failure(loadObject(programBytes('map_arrays'), keep({ maxEntries: 32 })));
  expect(error).toMatchObject({
    code: 'bpf.map_mismatch',
    details: { map: 'lengths', pinPath: pins.at('lengths'), differs: ['max_entries: wanted 32, found 16'] },
  });
  expect(error.message).toBe(
    `The map kept at ${pins.at('lengths')} is not of the shape that map lengths wants (max_entries: wanted 32, found 16).`,
  );
});

test('a kept map that is no map, or a folder that is not there: nothing is left behind', async () => {
  using pins = makePins();
  using object = await loadObject(programBytes('map_arrays'));
  object.program('histogram').pin(pins.at('program'));
  const wanted = (...paths: string[]): LoadOptions => ({
    maps: ['lengths', 'lengths_by_cpu'].flatMap((name, at) => {
      const pinPath = paths[at];
      return pinPath === undefined ? [] : [{ name, pinPath }];
    }),
  });
  expect(await failure(loadObject(programBytes('map_arrays'), wanted(pins.at('program'))))).toMatchObject({
    code: 'bpf.map_mismatch',
  });
  const absent = await failure(loadObject(programBytes('map_arrays'), wanted(pins.at('one'), pins.at('no/folder'))));
  expect(absent.code).toBe('bpf.pin_failed');
  // The first pin was made and is taken away again.
  expect(pins.list()).toEqual(['program']);
});

test('pins that the object asks for by itself are not made', async () => {
  const report = await inspectObject(programBytes('map_arrays'));
  expect(report.maps.map(({ pinByName }) => pinByName)).toEqual([false, false]);
});

test('the whole log is kept up to its limit, and the reason is found in what is left', async () => {
  const whole = await failure(loadObject(programBytes('rejected_endless_loop')));
  expect(whole).toMatchObject({ code: 'bpf.verifier_rejected', program: 'spin', errno: 22, details: {} });
  const cut = await failure(loadObject(programBytes('rejected_endless_loop'), { logLimitBytes: 512 }));
  expect(cut).toMatchObject({ code: 'bpf.verifier_rejected', reason: whole.reason, details: { logTruncated: true } });
  expect(whole.log?.endsWith(cut.log ?? 'nothing')).toBe(true);
  expect(cut.log).toHaveLength(511);
});

test('runs are counted while somebody asks for it', async () => {
  using object = await loadObject(programBytes('map_arrays'));
  const program = object.program('histogram');
  {
    using _stats = enableStats();
    await program.testRun({ data: frame(), repeat: 1000 });
  }
  const { runCount, runTimeNs } = program.info();
  expect(runCount).toBe(1000);
  expect(runTimeNs).toBeGreaterThan(0);
});

test('a map that the kernel cannot make is named', async () => {
  const maps = [{ name: 'by_hash', maxEntries: 2 ** 32 - 1 }];
  const error = await failure(loadObject(programBytes('map_hashes'), { maps }));
  expect(error).toMatchObject({ code: 'bpf.map_failed', details: { map: 'by_hash' } });
});

test('BTF of a kernel is taken from the caller; broken BTF is refused as missing', async () => {
  const kernelBtf = readFileSync('/sys/kernel/btf/vmlinux');
  using object = await loadObject(programBytes('btf_typed'), { kernelBtf });
  expect(object.programs.size).toBe(1);
  const error = await failure(loadObject(programBytes('btf_typed'), { kernelBtf: kernelBtf.subarray(0, -1) }));
  expect(error).toMatchObject({ code: 'bpf.missing_btf', message: 'The BTF given for this kernel cannot be read.' });
});

test.each<[string, Uint8Array | string, LoadOptions]>([
  ['no bytes', 'text', {}],
  ['a name with a slash', Buffer.alloc(1), { programs: [{ name: 'a/b' }] }],
  ['a relative pin', Buffer.alloc(1), { maps: [{ name: 'm', pinPath: 'relative' }] }],
  ['a pin with a NUL', Buffer.alloc(1), { maps: [{ name: 'm', pinPath: '/sys/fs/bpf/a\0b' }] }],
  ['a program twice', Buffer.alloc(1), { programs: [{ name: 'p' }, { name: 'p' }] }],
  ['no entries', Buffer.alloc(1), { maps: [{ name: 'm', maxEntries: 0 }] }],
  ['a log limit below a page', Buffer.alloc(1), { logLimitBytes: 1 }],
])('%s is refused before the addon is asked', async (_, bytes, options) => {
  expect((await failure(loadObject(bytes as Uint8Array, options))).code).toBe('bpf.invalid');
});

test('a handle that is closed says so, and one of another kind is not taken', async () => {
  const object = await loadObject(programBytes('map_arrays'));
  const program = object.program('histogram');
  const map = object.map('lengths');
  // @ts-expect-error a map where a program belongs
  expect(() => addon().programInfo(map.handle)).toThrow('This handle is of another kind');
  // @ts-expect-error no handle at all
  expect(() => addon().programInfo({})).toThrow('This is not a handle of bpf-loader');
  object[Symbol.dispose]();
  expect(() => program.info()).toThrow(
    expect.objectContaining({ code: 'bpf.invalid', message: 'This handle is closed.' }),
  );
  expect(() => map.lookup(Buffer.alloc(4))).toThrow(expect.objectContaining({ code: 'bpf.invalid' }));
});

test('a program that is closed while it runs stays until it has run', async () => {
  const object = await loadObject(programBytes('map_arrays'));
  const running = object.program('histogram').testRun({ data: frame(), repeat: 100_000 });
  object[Symbol.dispose]();
  expect((await running).returned).toBe(XDP_PASS);
});

test('twenty loads and releases leave nothing in the kernel', async () => {
  const own = (ids: number[], open: (id: number) => Disposable & { name: string }) =>
    ids.filter((id) => {
      try {
        using one = open(id);
        return one.name.startsWith('leak_check');
      } catch {
        return false; // another test's, gone meanwhile
      }
    });
  for (let round = 0; round < 20; round++) {
    using _object = await loadObject(programBytes('globals'), { name: 'leak_check' });
  }
  expect(own(mapIds(), mapById)).toEqual([]);
  expect(linkIds()).toEqual(expect.any(Array));
});

test('what is not there is not found', () => {
  using pins = makePins();
  expect(() => openProgram(pins.at('none'))).toThrow(expect.objectContaining({ code: 'bpf.not_found' }));
  expect(() => programById(2 ** 31)).toThrow(expect.objectContaining({ code: 'bpf.not_found' }));
  expect(() => openProgram('relative')).toThrow(expect.objectContaining({ code: 'bpf.invalid' }));
});

test('a pin of another kind is told apart', async () => {
  using pins = makePins();
  using object = await loadObject(programBytes('map_arrays'));
  object.map('lengths').pin(pins.at('map'));
  expect(() => openProgram(pins.at('map'))).toThrow(`What is pinned at ${pins.at('map')} is not a program`);
});

test('a process without rights is told which it lacks', () => {
  const script = `
    const { loadObject } = await import(${JSON.stringify(fileURLToPath(new URL('../src/object.ts', import.meta.url)))});
    const { readFileSync } = await import('node:fs');
    try { await loadObject(readFileSync(${JSON.stringify(programPath('attach_device'))})); console.log('loaded'); }
    catch (error) { console.log(error.code + ': ' + error.message); }`;
  const drop = ['--reuid=65534', '--regid=65534', '--clear-groups', '--bounding-set=-all', '--no-new-privs'];
  const { stdout, stderr } = spawnSync(
    'setpriv',
    [...drop, process.execPath, '--input-type=module', '--eval', script],
    { encoding: 'utf8' },
  );
  expect(stderr).toBe('');
  expect(stdout).toMatch(/^bpf\.not_permitted: The kernel does not let this process load .*\(EPERM\)\. /);
  expect(stdout).toContain('This process lacks CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN: run it as root or grant them.');
});

test('hints name lockdown and the sysctl where they stand in the way', () => {
  const texts: Record<string, string> = {
    '/proc/self/status': 'CapEff:\t0000000000001000\n',
    '/sys/kernel/security/lockdown': 'none integrity [confidentiality]\n',
    '/proc/sys/kernel/unprivileged_bpf_disabled': '2\n',
  };
  expect(permissionHints((path) => texts[path] ?? '')).toEqual([
    'This process lacks CAP_BPF, CAP_PERFMON: run it as root or grant them.',
    'The kernel is locked down (confidentiality), which forbids programs that read kernel memory.',
    'kernel.unprivileged_bpf_disabled forbids eBPF without these capabilities.',
  ]);
  expect(permissionHints(() => 'CapEff:\t000001ffffffffff\n')).toEqual([]);
});

test('where there is no addon, the reason is said', () => {
  expect(loaderAvailable()).toEqual({ available: true });
  expect(loaderAvailable({ AEGIS_NATIVE_DIR: '/nowhere' })).toEqual({
    available: false,
    reason: 'eBPF cannot be used here: aegis_bpf.node is not built (looked in /nowhere): run bin/setup.',
  });
  expect(() => findAddon({}, 'darwin')).toThrow(
    expect.objectContaining({
      code: 'bpf.unsupported',
      message: 'eBPF cannot be used here: it is a part of Linux, and this is darwin.',
    }),
  );
});

test('many loads at once do not mix their words', async () => {
  const names = ['rejected_null_lookup', 'rejected_license', 'rejected_packet_bounds', 'rejected_return_value'];
  const alone = await Promise.all(names.map(async (name) => (await failure(loadObject(programBytes(name)))).reason));
  const together = await Promise.all(
    Array.from({ length: 5 }, () => names)
      .flat()
      .map(async (name) => (await failure(loadObject(programBytes(name)))).reason),
  );
  expect(together).toEqual(Array.from({ length: 5 }, () => alone).flat());
  expect(new Set(alone).size).toBe(names.length);
});

test('inspection tells what bpftool would, without loading', async () => {
  const report = await inspectObject(programBytes('globals'));
  expect(report.programs).toEqual([
    { name: 'copy', section: 'xdp', type: 'xdp', attachType: 'xdp', instructions: expect.any(Number) },
  ]);
  expect(report.maps.map(({ name, internal }) => [name, internal])).toEqual([
    ['.rodata', true],
    ['.rodata.tuning', true],
    ['.data', true],
    ['.bss', true],
  ]);
  const globals = report.globals.map(({ name, section, size, typeName }) => [name, section, size, typeName]);
  expect(globals).toContainEqual(['label', '.rodata', 16, 'char[16]']);
  expect(globals).toContainEqual(['limits', '.rodata', 6, 'struct limits']);
  expect(globals).toContainEqual(['placed', '.rodata.tuning', 4, 'int']);
  expect(report.globals.find(({ name }) => name === 'wide')?.initial).toEqual(
    Buffer.from([0xfb, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
  );
  expect(report).toMatchObject({
    license: 'GPL',
    hasBtf: true,
    hasBtfExt: true,
    coreRelocations: 0,
    needsKernelBtf: false,
  });
  expect(list(await bpftool(['prog', 'show'])).map((one) => record(one).name)).not.toContain('copy');
});

test('inspection tells what an object needs of the kernel', async () => {
  const core = await inspectObject(programBytes('map_task_storage'));
  expect(core.needsKernelBtf).toBe(true);
  expect(core.coreRelocations).toBeGreaterThan(0);
  const unknown = await inspectObject(programBytes('attach_tc'));
  expect(unknown.programs[0]).toEqual({ name: 'one', section: 'classifier/one', instructions: expect.any(Number) });
});
