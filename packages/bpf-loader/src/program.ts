/** One loaded program. */
import { checkBytes, checkInteger, checkPath } from './arguments.ts';
import { typed, typedAsync } from './errors.ts';
import { programTypeName } from './kernel-types.ts';
import type { ProgramHandle } from './loader.ts';
import { addon } from './loader.ts';
import type { ProgramInfo, ProgramType } from './types.ts';

export interface TestRun {
  /** A packet, for programs that see packets (at least 14 bytes). */
  data?: Uint8Array;
  /** The program's context structure. */
  context?: Uint8Array;
  repeat?: number;
}

export interface TestOutcome {
  returned: number;
  /** Average of one run. */
  durationNs: number;
  data: Buffer;
  context: Buffer;
}

export class Program implements Disposable {
  readonly name: string;
  readonly type: ProgramType | `type_${number}`;
  /** For this package only. */
  readonly handle: ProgramHandle;

  constructor(handle: ProgramHandle, name: string, type: ProgramType | `type_${number}`) {
    this.handle = handle;
    this.name = name;
    this.type = type;
  }

  info(): ProgramInfo {
    const raw = typed(() => addon().programInfo(this.handle));
    return { ...raw, type: programTypeName(raw.type) };
  }

  get id(): number {
    return this.info().id;
  }

  pin(path: string): void {
    checkPath(path, 'A pin');
    typed(() => addon().pin(this.handle, path));
  }

  /** Runs the program in the kernel on made-up data (BPF_PROG_TEST_RUN). */
  testRun({ data, context, repeat = 1 }: TestRun = {}): Promise<TestOutcome> {
    if (data !== undefined) checkBytes(data, 'Test data');
    if (context !== undefined) checkBytes(context, 'A test context');
    checkInteger(repeat, 0, 1_000_000, 'repeat');
    return typedAsync(async () => addon().testRun(this.handle, data, context, repeat));
  }

  [Symbol.dispose](): void {
    addon().close(this.handle);
  }
}

const named = (handle: ProgramHandle): Program => {
  const { name, type } = typed(() => addon().programInfo(handle));
  return new Program(handle, name, programTypeName(type));
};

/** Opens a pinned program; bpf.not_found without one. */
export const openProgram = (path: string): Program =>
  named(typed(() => addon().openPin('program', checkPath(path, 'A pin'))));

export const programById = (id: number): Program =>
  named(typed(() => addon().openId('program', checkInteger(id, 1, 2 ** 32 - 1, 'An id'))));
