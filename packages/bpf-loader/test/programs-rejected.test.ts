import { spawnSync } from 'node:child_process';
import { expect, test } from 'vitest';
import { LoaderError } from '../src/errors.ts';
import { programIds } from '../src/kernel.ts';
import { loadObject } from '../src/object.ts';
import { programById } from '../src/program.ts';
import type { LoadOptions, ProgramSpec } from '../src/types.ts';
import { load } from './fixture.ts';
import { makePins } from './pins.ts';
import { programBytes, programPath } from './programs.ts';

/** What the kernel or the loader refuses: by code and reason, and with the whole log where the verifier spoke. */

const failure = async (loading: Promise<Disposable>): Promise<LoaderError> => {
  const error: unknown = await loading.then(
    (object) => object[Symbol.dispose](),
    (thrown: unknown) => thrown,
  );
  if (error instanceof LoaderError) return error;
  throw new Error(`no LoaderError: ${String(error)}`);
};

/** The verifier's words as bpftool prints them, between libbpf's marks. */
const bpftoolLog = (object: string): string => {
  using pins = makePins();
  const { stderr } = spawnSync('bpftool', ['prog', 'loadall', programPath(object), pins.at('tried')], {
    encoding: 'utf8',
    maxBuffer: 1 << 26,
  });
  const log = /-- BEGIN PROG LOAD LOG --\n([\s\S]*?)-- END PROG LOAD LOG --/.exec(stderr)?.[1];
  if (log === undefined) throw new Error(`bpftool has no log: ${stderr}`);
  return log;
};

/** Program, the reason that is told, and where another line says more, that one. */
const rejected: [object: string, program: string, reason: string, also?: string][] = [
  [
    'packet_bounds',
    'careless',
    'R1 offset is outside of the packet',
    'invalid access to packet, off=12 size=1, R1(id=0,off=12,r=0)',
  ],
  ['null_lookup', 'trusting', "R0 invalid mem access 'map_value_or_null'"],
  ['map_bounds', 'beyond', 'R1 unbounded memory access, make sure to bounds check any such access'],
  ['endless_loop', 'spin', 'infinite loop detected at insn 4'],
  ['wrong_helper', 'stranger', 'program of this type cannot use helper bpf_redirect#23'],
  ['context_field', 'curious', 'invalid bpf_context access off=72 size=4'],
  ['return_value', 'unheard_of', 'At program exit the register R0 has smin=5 smax=5 should have been in [0, 1]'],
  [
    'leaked_reference',
    'forgetful',
    'BPF_EXIT instruction in main prog would lead to reference leak',
    'Unreleased reference id=2 alloc_insn=4',
  ],
  ['license', 'proprietary', 'cannot call GPL-restricted function from non-GPL compatible program'],
  ['stack_bounds', 'overflow', 'invalid variable-offset write to stack R4 var_off=(0x0; 0x7f) off=-64 size=1'],
  ['held_lock', 'holds_on', 'BPF_EXIT instruction in main prog cannot be used inside bpf_spin_lock-ed region'],
];

/** A line in its words: registers, offsets and instruction numbers are the compiler's choice. */
const inItsWords = (line: string): RegExp =>
  new RegExp(`^${line.replaceAll(/[^\w\s]/g, '\\$&').replaceAll(/0x[0-9a-f]+|\d+/g, '(0x[0-9a-f]+|\\d+)')}$`);

/** Addresses differ from load to load. */
const steady = (log: string): string => log.trim().replaceAll(/0xffff[0-9a-f]{12}/g, '(address)');

test.each(rejected)(
  'the verifier rejects %s, with its reason and its whole log',
  async (object, program, reason, also) => {
    const name = `rejected_${object}`;
    const error = await failure(loadObject(programBytes(name), { name }));
    expect({ code: error.code, program: error.program, reason: error.reason }).toEqual({
      code: 'bpf.verifier_rejected',
      program,
      reason: expect.stringMatching(inItsWords(reason)),
    });
    expect(error.message).toContain(error.reason);
    const log = error.log ?? '';
    const lines = log.trimEnd().split('\n');
    expect(lines).toContain(error.reason);
    if (also) expect(lines).toContainEqual(expect.stringMatching(inItsWords(also)));
    // Whole: from the state before the first instruction to the closing count, word for word what bpftool gets.
    expect(lines[0]).toMatch(/^0: R1=ctx/);
    expect(lines.at(-1)).toMatch(/^processed \d+ insns/);
    expect(steady(bpftoolLog(name))).toBe(steady(log));
    expect(programsNamed(program)).toEqual([]);
  },
);

/** Ids of loaded programs of a name that only this test loads. */
const programsNamed = (name: string): number[] =>
  programIds().filter((id) => {
    try {
      using program = programById(id);
      return program.name === name;
    } catch {
      return false; // another test's, gone meanwhile
    }
  });

const refusals: [what: string, () => Promise<Disposable>, Partial<LoaderError>, sentence: RegExp][] = [
  ['no ELF', () => loadObject(Buffer.from('not an object')), { code: 'bpf.bad_object' }, /ELF|object/],
  ['an ELF file cut off', () => loadObject(programBytes('globals').subarray(0, 600)), { code: 'bpf.bad_object' }, /./],
  [
    'a section that says no type',
    () => loadObject(programBytes('attach_tc')),
    { code: 'bpf.unknown_section' },
    /classifier\/one/,
  ],
  [
    'a program that is not there',
    () => load('globals', [{ name: 'paste' }]),
    { code: 'bpf.unknown_program', details: expect.objectContaining({ known: ['copy'] }) },
    /paste/,
  ],
  [
    'a map that is not there',
    () => load('globals', [{ name: 'copy' }], {}, { maps: [{ name: 'nothing' }] }),
    { code: 'bpf.unknown_map' },
    /nothing/,
  ],
];
test.each(refusals)('%s is refused', async (_, loading, fields, sentence) => {
  const error = await failure(loading());
  expect(error).toMatchObject(fields);
  expect(error.message).toMatch(sentence);
});

const withGlobals = (...entries: [string, Uint8Array][]): LoadOptions => ({ globals: new Map(entries) });

test('a global that is not there is refused, and those there are named', async () => {
  const error = await failure(loadObject(programBytes('attach_sockopt'), withGlobals(['target', Uint8Array.of(1)])));
  expect(error.code).toBe('bpf.unknown_global');
  expect([...(error.details.known as string[])].sort()).toEqual(['refused_tos', 'shown_ttl']);
});

test('a global of another size is refused', async () => {
  const error = await failure(
    loadObject(programBytes('attach_sockopt'), withGlobals(['shown_ttl', Uint8Array.of(1, 2)])),
  );
  expect(error.code).toBe('bpf.bad_global');
  expect(error.message).toMatch(/shown_ttl/);
});

test('an attachment target that the kernel does not have is refused by name', async () => {
  const spec: ProgramSpec = {
    name: 'on_exec',
    type: 'tracing',
    attach: { kind: 'raw_tracepoint', name: 'no_such_event' },
  };
  const error = await failure(load('btf_typed', [spec]));
  expect(error.code).toBe('bpf.no_such_target');
});
