import { execFile, spawn } from 'node:child_process';
import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { differences, snapshot } from '../../packages/archive/test/tree-compare.ts';
import { waitFor } from '../faults/wait.ts';
import type { Api } from './api.ts';
import { aegis, cleanEnv } from './fleet.ts';

/** Runs of backups as an operator sees them, by the real CLI; and the judge of what became of them. */
export interface BackupJudge {
  /** The proxies answer from this very process: nothing may wait without letting it run. */
  tryAegis(...args: readonly string[]): Promise<Ended>;
  /** @throws Error with its output unless it exits with 0 */
  aegis(...args: readonly string[]): Promise<string>;
  /** Starts a run as cron on the node would. Nothing of it is waited for but that the daemon has taken it; answers with its id. */
  begin(name: string, dataDir: string): Promise<string>;
  runs(name: string): Promise<RunSeen[]>;
  /** What is wrong with the runs of a configuration; empty when each that calls itself good verifies and restores to the tree that was
   *  backed up, but for what it names, and each other one says why. `wanted`: the tree, where it is not as it stands now. */
  faults(name: string, source: string, wanted?: ReadonlyMap<string, string>): Promise<string[]>;
}

export interface Ended {
  status: number | null;
  stdout: string;
  stderr: string;
}
export interface RunSeen {
  run_id: string;
  state: string;
  attempt: number;
  reason: { code: string; message: string } | null;
  errors: { path: string; code: string; message: string }[];
}

const CLI_MS = 120_000;
const MIB = 1024 * 1024;

export const backupJudge = (on: { folder: string; url: string; token: string; api: Api }): BackupJudge => {
  const home = join(on.folder, 'operator');
  mkdirSync(home, { mode: 0o700 });
  const env = cleanEnv(home, { AEGIS_SERVER: on.url, AEGIS_TOKEN: on.token });
  const tryAegis = (...args: readonly string[]): Promise<Ended> =>
    new Promise((resolve) => {
      const child = execFile(aegis, args, { env, timeout: CLI_MS, maxBuffer: 64 * MIB }, (_error, stdout, stderr) =>
        resolve({ status: child.exitCode, stdout, stderr }),
      );
    });
  const run = async (...args: readonly string[]): Promise<string> => {
    const { status, stdout, stderr } = await tryAegis(...args);
    if (status !== 0) throw new Error(`aegis ${args.join(' ')}: exit ${status}\n${stdout}${stderr}`);
    return stdout;
  };
  const runs = async (name: string): Promise<RunSeen[]> => {
    const answer = await on.api.call('GET', `/api/v1/backups/runs?config=${name}&limit=100`);
    if (answer.status !== 200) throw new Error(`runs of ${name}: ${answer.status} ${JSON.stringify(answer.body)}`);
    return (answer.body as { items: RunSeen[] }).items;
  };
  const restored = async (runId: string, source: string, wanted: ReadonlyMap<string, string>): Promise<string[]> => {
    const target = join(on.folder, `restored-${runId}`);
    const { status, stdout, stderr } = await tryAegis('backups', 'restore', runId, '--target', target);
    try {
      if (status !== 0) return [`restore exits with ${status}: ${stdout}${stderr}`];
      return differences(wanted, snapshot(join(target, source)));
    } finally {
      rmSync(target, { recursive: true, force: true });
    }
  };

  return {
    tryAegis,
    aegis: run,
    begin: async (name, dataDir) => {
      const argv = ['backups', 'run', '--once', name, '--json', '--data-dir', dataDir];
      const child = spawn(aegis, argv, { env, stdio: ['ignore', 'pipe', 'pipe'] });
      let text = '';
      child.stdout.on('data', (bytes: Buffer) => {
        text += bytes.toString('utf8');
      });
      child.stderr.on('data', (bytes: Buffer) => {
        text += bytes.toString('utf8');
      });
      await waitFor(
        `the run of ${name} to begin`,
        () => text.includes('\n') || child.exitCode !== null,
        60_000,
        () => text,
      );
      const id = /"run_id":"([^"]+)"/.exec(text)?.[1];
      if (id === undefined) throw new Error(`${name} does not begin: ${text}`);
      return id;
    },
    runs,
    faults: async (name, source, wanted = snapshot(source)) => {
      const judged = async ({ run_id, state, reason, errors }: RunSeen): Promise<string[]> => {
        if (state !== 'completed' && state !== 'completed_with_errors')
          return !reason?.code || reason.message.length < 10 ? [`${name} ${run_id} ${state} without a reason`] : [];
        // Neither writes what the other reads.
        const [{ status, stdout, stderr }, different] = await Promise.all([
          tryAegis('backups', 'verify', run_id),
          restored(run_id, source, wanted),
        ]);
        const unverified = status === 0 ? [] : [`verify exits with ${status}: ${stdout}${stderr}`];
        const told = (difference: string): boolean =>
          errors.some(({ path }) =>
            difference.startsWith(JSON.stringify(path.slice(path.indexOf(source) + source.length + 1)).slice(0, -1)),
          );
        return [...unverified, ...different.filter((text) => !told(text))].map((text) => `${name} ${run_id}: ${text}`);
      };
      const found: string[] = [];
      for (const run of await runs(name)) found.push(...(await judged(run)));
      return found;
    },
  };
};
