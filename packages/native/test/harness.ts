/** What the tests of aegis-exec share: the two builds, a launcher on a temporary folder, and a reader that takes the spool
 *  away as the daemon does. */
import { execFileSync } from 'node:child_process';
import { createHash, randomUUID } from 'node:crypto';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, unlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { readBootId } from '../src/boot-id.ts';
import type { ExecutionSpec, ExecutionStatus, StreamName } from '../src/execution-folder.ts';
import { createExecutionFolder, listSegments, readStatus } from '../src/execution-folder.ts';
import type { HintKind, Launcher } from '../src/launcher.ts';
import { startLauncher } from '../src/launcher.ts';

const packageDir = fileURLToPath(new URL('..', import.meta.url));

/** Both builds run the same tests; the second one aborts on memory errors and reports leaks into log files. */
export const builds = ['Release', 'asan'] as const;
export type Build = (typeof builds)[number];
export const binaryOf = (build: Build): string => join(packageDir, 'build', build, 'aegis-exec');

/** Safe from several test files at once; does nothing when up to date. */
export const buildBoth = (): void => {
  execFileSync('flock', [join(packageDir, 'Makefile'), 'make', '--silent', '-C', packageDir, 'all', 'asan'], {
    stdio: 'inherit',
  });
};

export const until = async <T>(
  what: string,
  look: () => T | null | undefined | false,
  deadlineMs = 30_000,
): Promise<T> => {
  const end = Date.now() + deadlineMs;
  for (;;) {
    const found = look();
    if (found !== null && found !== undefined && found !== false) return found;
    if (Date.now() > end) throw new Error(`waited ${deadlineMs} ms in vain for ${what}`);
    await delay(2);
  }
};

export type Run = { id: string; dir: string };
export type Output = { bytes: Buffer; text: string };

const PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

export const defaults = (): Omit<ExecutionSpec, 'argv'> => ({
  env: { PATH },
  timeoutMs: 0,
  graceMs: 200,
  drainMs: 300,
  spoolBytes: 8 << 20,
  segmentBytes: 1 << 20,
  bootId: readBootId(),
});

export class Bench implements AsyncDisposable {
  readonly root = mkdtempSync(join(tmpdir(), 'aegis-exec-'));
  readonly hints: [id: string, kind: HintKind, detail: string][] = [];
  readonly sanitizerLog: string;
  launcher: Launcher;
  readonly build: Build;
  readonly #dirs: string[] = [];

  constructor(build: Build) {
    this.build = build;
    this.sanitizerLog = join(this.root, 'sanitizer');
    this.launcher = this.startLauncher();
  }

  startLauncher(): Launcher {
    return startLauncher({
      binary: binaryOf(this.build),
      env: this.sanitizerEnv(),
      onHint: (...hint) => this.hints.push(hint),
      onExit: () => undefined,
    });
  }

  sanitizerEnv(): NodeJS.ProcessEnv {
    const log = `log_path=${this.sanitizerLog}`;
    return { ASAN_OPTIONS: `abort_on_error=1:detect_leaks=1:${log}`, UBSAN_OPTIONS: `print_stacktrace=1:${log}` };
  }

  prepare(argv: string[], changes: Partial<ExecutionSpec> = {}, stdin?: Uint8Array, root = this.root): Run {
    const id = randomUUID();
    const dir = createExecutionFolder(root, id, { ...defaults(), argv, ...changes }, stdin);
    this.#dirs.push(dir);
    return { id, dir };
  }

  start(argv: string[], changes: Partial<ExecutionSpec> = {}, stdin?: Uint8Array, root = this.root): Run {
    const run = this.prepare(argv, changes, stdin, root);
    this.launcher.start(run.dir);
    return run;
  }

  sh(script: string, changes: Partial<ExecutionSpec> = {}, stdin?: Uint8Array): Run {
    return this.start(['/bin/sh', '-c', script], changes, stdin);
  }

  async hint(run: Run, kind: HintKind): Promise<string> {
    const [, , detail] = await until(`hint ${kind}`, () => this.hints.find(([id, k]) => id === run.id && k === kind));
    return detail;
  }

  status(run: Run): Promise<ExecutionStatus> {
    return until(`the status of ${run.id}`, () => readStatus(run.dir));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.launcher.close();
    const reports = readdirSync(this.root).filter((name) => name.startsWith('sanitizer'));
    const texts = reports.map((name) => readFileSync(join(this.root, name), 'utf8'));
    rmSync(this.root, { recursive: true, force: true });
    if (texts.length > 0) throw new Error(`the sanitizers complain:\n${texts.join('\n')}`);
  }
}

/** What stands in the segments now. */
export const readOutput = (run: Run, stream: StreamName): Buffer => {
  const parts: Buffer[] = [];
  let offset = 0;
  for (const segment of listSegments(run.dir, stream)) {
    if (segment.offset !== offset) throw new Error(`a segment at ${segment.offset}, expected ${offset}`);
    parts.push(readFileSync(segment.path));
    offset += segment.bytes;
  }
  return Buffer.concat(parts);
};

export type Collected = { bytes: number; sha256: string; mostOnDisk: number };

/** Takes segments in order and unlinks them, until the end; notes the most bytes that were ever seen on disk. */
export const collect = async (run: Run, stream: StreamName, pauseMs = 1): Promise<Collected> => {
  const hash = createHash('sha256');
  let bytes = 0;
  let mostOnDisk = 0;
  for (;;) {
    const ended = existsSync(join(run.dir, 'status'));
    const segments = listSegments(run.dir, stream);
    mostOnDisk = Math.max(
      mostOnDisk,
      segments.reduce((sum, segment) => sum + segment.bytes, 0),
    );
    for (const segment of segments) {
      if (segment.offset !== bytes) throw new Error(`a segment at ${segment.offset}, expected ${bytes}`);
      if (!segment.complete && segment.bytes < defaults().segmentBytes) break;
      const data = readFileSync(segment.path);
      hash.update(data);
      bytes += data.length;
      unlinkSync(segment.path);
    }
    if (ended) return { bytes, sha256: hash.digest('hex'), mostOnDisk };
    await delay(pauseMs);
  }
};

/** A file of a process, or '' when the process is gone or nobody may look (a container's init). */
export const procFile = (pid: number | string, name: string): string => {
  try {
    return readFileSync(`/proc/${pid}/${name}`, 'latin1');
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? String(error.code) : '';
    if (['ENOENT', 'ESRCH', 'EACCES'].includes(code)) return '';
    throw error;
  }
};

/** Pids whose environment holds the mark: every process of a command that was started with it. */
export const marked = (mark: string): number[] =>
  readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && procFile(name, 'environ').includes(mark))
    .map(Number);

export const markEnv = (): { mark: string; env: Record<string, string> } => {
  const mark = `AEGIS_TEST_MARK=${randomUUID()}`;
  return { mark, env: { PATH, AEGIS_TEST_MARK: mark.slice('AEGIS_TEST_MARK='.length) } };
};

export const sha256 = (data: Uint8Array | string): string => createHash('sha256').update(data).digest('hex');
