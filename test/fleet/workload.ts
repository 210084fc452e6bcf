import { createHash, randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { waitFor } from '../faults/wait.ts';
import type { Run } from './api.ts';
import type { Fleet } from './fleet.ts';

/** Commands whose whole outcome is known beforehand, for tests that let many of them run while things break. */
export interface Job {
  node: string;
  kind: string;
  /** Null when all is as it must be: one start, the right end, every byte once. */
  fault(deadlineMs: number): Promise<string | null>;
}

interface Kind {
  script: string;
  stdout: string;
  stderr: string;
  exitCode: number;
}

const numbered = (from: number, to: number) =>
  Array.from({ length: to - from + 1 }, (_, at) => `${from + at}\n`).join('');
const range = (count: number) => Array.from({ length: count }, (_, at) => at + 1);

const KINDS: Readonly<Record<string, () => Kind>> = {
  quick: () => ({ script: 'echo quick; exit 7', stdout: 'quick\n', stderr: '', exitCode: 7 }),
  silent: () => ({ script: 'sleep 0.2', stdout: '', stderr: '', exitCode: 0 }),
  // A few seconds of drops, on both streams.
  dripping: () => ({
    script: 'for i in $(seq 40); do echo "o $i"; echo "e $i" >&2; sleep 0.1; done; printf end',
    stdout: `${range(40)
      .map((n) => `o ${n}\n`)
      .join('')}end`,
    stderr: range(40)
      .map((n) => `e ${n}\n`)
      .join(''),
    exitCode: 0,
  }),
  // Little, and yet much where a second has a kibibyte.
  page: () => ({ script: 'seq 1 1500', stdout: numbered(1, 1500), stderr: '', exitCode: 0 }),
  chapter: () => ({ script: 'seq 1 20000', stdout: numbered(1, 20_000), stderr: '', exitCode: 0 }),
  // More than fits a segment or a request, in bursts.
  bursting: () => ({
    script: 'for i in 1 2 3 4 5; do seq $((i * 100000 - 99999)) $((i * 100000)); sleep 0.4; done',
    stdout: numbered(1, 500_000),
    stderr: '',
    exitCode: 0,
  }),
};
export const KIND_NAMES = Object.keys(KINDS);

const sha256 = (text: string) => createHash('sha256').update(text).digest('hex');

/** Submits as a careful client does: with one idempotency key until there is an answer. */
export const startJob = async (fleet: Pick<Fleet, 'folder' | 'api'>, node: string, kind: string): Promise<Job> => {
  const wanted = KINDS[kind]?.();
  if (!wanted) throw new RangeError(`no kind ${kind}`);
  const key = randomUUID();
  const marker = join(fleet.folder, `started-${key}`);
  let run: Run | null = null;
  await waitFor(
    'a submission to be accepted',
    async () => {
      run = await fleet.api
        .submit({
          targets: node,
          output_limit_bytes: 0,
          command_type: 'RunCommand',
          payload: { cmd: `echo x >> ${marker}; ${wanted.script}` },
          idempotency_key: key,
        })
        .catch(() => null);
      return run !== null;
    },
    120_000,
  );
  if (!run) throw new Error('not submitted');
  return { node, kind, fault: (deadlineMs) => faultOf(run as unknown as Run, wanted, marker, deadlineMs) };
};

const faultOf = async (run: Run, wanted: Kind, marker: string, deadlineMs: number): Promise<string | null> => {
  // Between the end and the look the server may die again: a broken look is not a fault.
  let found: unknown;
  await waitFor(
    `the end of ${run.id}`,
    async () => {
      try {
        const executions = await run.finished(deadlineMs);
        found = {
          executions: executions.map(({ attempt, state, presumed, exit_code, output_verified, report_signed }) => ({
            attempt,
            state,
            presumed,
            exit_code,
            output_verified,
            report_signed,
          })),
          stdout: await run.stored('stdout'),
          stderr: await run.stored('stderr'),
        };
        return true;
      } catch (error) {
        if (error instanceof Error && error.message.startsWith('waited')) throw error;
        return false;
      }
    },
    deadlineMs,
  );
  const told = JSON.stringify({ ...(found as object), started: readFileSync(marker, 'utf8') });
  const right = JSON.stringify({
    executions: [
      {
        attempt: 1,
        state: wanted.exitCode === 0 ? 'succeeded' : 'failed',
        presumed: false,
        exit_code: wanted.exitCode,
        output_verified: true,
        report_signed: true,
      },
    ],
    stdout: { bytes: wanted.stdout.length, sha256: sha256(wanted.stdout) },
    stderr: { bytes: wanted.stderr.length, sha256: sha256(wanted.stderr) },
    started: 'x\n',
  });
  return told === right ? null : `${run.id}: ${told} instead of ${right}`;
};
