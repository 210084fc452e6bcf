import { hostname } from 'node:os';
import type { ControlRequest } from '@aegis/daemon/control';
import { AegisError } from '@aegis/protocol/errors';
import { untilInterrupted } from '../following/until-interrupted.ts';
import { nodeFolder } from '../node-folder.ts';
import type { Surroundings } from '../surroundings.ts';
import { type Fields, type NodeEnd, nodeLineOf } from './node-lines.ts';
import { progressOf, progressView } from './progress-view.ts';

/** A run or a restore on this very machine: its daemon is asked through the socket, and told to stop by hanging up. */

interface Here {
  'data-dir'?: string | undefined;
  config?: string | undefined;
  json: boolean;
  progress: boolean;
  around: Surroundings;
}

/** With `json` each line goes to stdout as it comes.
 *  @throws AegisError what the daemon refuses with; cli.unreachable, cli.interrupted */
export const runHere = async (
  request: Extract<ControlRequest, { op: 'backup-run' | 'backup-restore' }>,
  { around, json, progress, ...flags }: Here,
): Promise<NodeEnd> => {
  const { dataDir } = await nodeFolder(flags, around.env);
  const { controlStream } = await import('@aegis/daemon/control');
  const view = progress && !json ? progressView(around) : null;
  let last: Fields | null = null;
  await untilInterrupted(async (signal) => {
    try {
      for await (const value of controlStream(dataDir, request, signal)) {
        const line = nodeLineOf(value);
        if (!line) continue;
        if (json) await around.output.out(`${JSON.stringify({ type: line.type, ...line.fields })}\n`);
        if (line.type === 'progress') await view?.show(hostname(), progressOf(line.fields));
        else last = line.fields;
      }
    } catch (error) {
      if (signal.aborted) throw new AegisError('cli.interrupted', 'It was told to stop: the daemon ends it.');
      throw error;
    } finally {
      await view?.clear();
    }
  });
  if (last === null)
    throw new AegisError(
      'cli.unreachable',
      "The daemon did not say how it ended. See 'aegis backups runs', or its log.",
    );
  return { node: hostname(), fields: last, refusal: null, why: null };
};

/** This node's own sealing key, for identities that are handed to its daemon. @throws AegisError cli.unreachable */
export const ownSealingKey = async (
  flags: Pick<Here, 'data-dir' | 'config'>,
  env: Surroundings['env'],
): Promise<Buffer> => {
  const { dataDir } = await nodeFolder(flags, env);
  const { controlDaemon } = await import('@aegis/daemon/control');
  const status = await controlDaemon(dataDir, { op: 'status' });
  const key = typeof status === 'object' && status !== null && 'sealing_key' in status ? status.sealing_key : null;
  if (typeof key === 'string') return Buffer.from(key, 'base64');
  throw new AegisError('cli.unreachable', 'The daemon here is of an older release: update it, and start it again.');
};
