import { createHash } from 'node:crypto';
import { openStatement, type Statement } from '@aegis/archive/backup/statement';
import { isGood, objectNames } from '@aegis/protocol/backups/run';
import { AegisError } from '@aegis/protocol/errors';
import { type Clock, isoTime } from '../platform/clock.ts';
import type { Place } from './destinations-repository.ts';
import type { NodeDoor } from './node-door.ts';
import type { RunsRepository } from './runs-repository.ts';
import type { S3Store } from './s3/store.ts';
import type { Stores } from './stores.ts';
import type { RunRow } from './tables.ts';

/** The server fetches what a run stored, and compares it with what its node signed: sizes and SHA-256. It needs no key of a recipient, and
 *  looks into nothing: whether an archive can be restored is for whoever can read it to see. */

/** A statement is small. */
const MAX_STATEMENT_BYTES = 64 * 1024;

export interface Verified {
  at: string;
  ok: boolean;
  message: string;
}

export const runVerification = (on: {
  runs: RunsRepository;
  stores: Stores;
  placeOf: (run: RunRow) => Promise<Place>;
  nodes: NodeDoor;
  /** Of a server key by its id, also one that was replaced since: what it signed of the server's own files. */
  serverKeyOf: (keyId: string) => Buffer | null;
  clock: Clock;
}) => {
  const { runs, clock } = on;

  const keyOf = async (run: RunRow): Promise<Buffer | null> => {
    if (run.node_uid === null) return run.node_key === null ? null : on.serverKeyOf(run.node_key);
    return (await on.nodes.keysOf(run.node_uid))?.publicKey ?? null;
  };
  /** What is wrong, or null. Failures of the destination are thrown: they say nothing of the backup. */
  const faultOf = async (run: RunRow, signal: AbortSignal): Promise<string | null> => {
    const store = on.stores.of(await on.placeOf(run));
    const names = objectNames(run.encrypted === 1);
    const stored = await store.get(`${run.prefix}${names.statement}`, { signal });
    if (stored === null) return 'statement.json is not there.';
    const bytes = await wholeOf(store.chunks(stored.body), MAX_STATEMENT_BYTES);
    if (bytes === null) return `statement.json is larger than ${MAX_STATEMENT_BYTES} bytes.`;
    const publicKey = await keyOf(run);
    if (publicKey === null || run.node_key === null) return 'No key is known that could have signed the statement.';
    let statement: Statement;
    try {
      ({ statement } = openStatement(bytes, new Map([[run.node_key, publicKey]])));
    } catch (error) {
      if (error instanceof AegisError) return error.message;
      throw error;
    }
    if (statement.run_id !== run.id || statement.prefix !== run.prefix) return 'statement.json is that of another run.';
    for (const object of ['archive', 'manifest'] as const) {
      const fault = await compare(store, `${run.prefix}${names[object]}`, statement[object], signal);
      if (fault !== null) return `The ${object}${fault}`;
    }
    return null;
  };

  return {
    /** @throws AegisError backups.unknown_object, unsupported (a folder), destination_failed */
    verify: async (run: RunRow, signal: AbortSignal = new AbortController().signal): Promise<Verified> => {
      requireThere(run);
      if (run.statement === null)
        throw new AegisError(
          'backups.unsupported',
          `The run ${run.id} is of an agent without a key, which signs nothing: there is nothing to compare its archive with.`,
        );
      const fault = await faultOf(run, signal);
      // Retention may have come in between: what it takes away is not damaged.
      if (fault !== null) requireThere((await runs.byId(run.id)) ?? run);
      const verified: Verified = {
        at: isoTime(clock.now()),
        ok: fault === null,
        message: fault ?? 'The objects are what the node signed.',
      };
      await runs.write('backups.verified', (tx) => runs.update(tx, run.id, { verified: JSON.stringify(verified) }));
      return verified;
    },
  };
};
export type RunVerification = ReturnType<typeof runVerification>;

/** @throws AegisError backups.unknown_object */
const requireThere = (run: RunRow): void => {
  if (isGood(run.state) && run.removed_at === null) return;
  throw new AegisError(
    'backups.unknown_object',
    `The run ${run.id} has no archive to verify (${run.removed_at === null ? run.state : 'removed'}). See 'aegis backups runs'.`,
  );
};

/** As in "The archive<fault>", or null. */
const compare = async (
  store: S3Store,
  key: string,
  stated: { bytes: number; sha256: string },
  signal: AbortSignal,
): Promise<string | null> => {
  const found = await store.get(key, { signal });
  if (found === null) return ' is not there.';
  if (found.bytes !== null && found.bytes !== stated.bytes) {
    found.body.destroy();
    return ` has ${found.bytes} bytes, not the ${stated.bytes} that its node signed.`;
  }
  const hash = createHash('sha256');
  let bytes = 0;
  for await (const part of store.chunks(found.body)) {
    hash.update(part);
    bytes += part.length;
    if (bytes > stated.bytes) break;
  }
  if (bytes !== stated.bytes) return ` has ${bytes} bytes, not the ${stated.bytes} that its node signed.`;
  return hash.digest('hex') === stated.sha256 ? null : ' is not what its node signed: its SHA-256 is another one.';
};

const wholeOf = async (body: AsyncIterable<Buffer>, most: number): Promise<Buffer | null> => {
  const parts: Buffer[] = [];
  let bytes = 0;
  for await (const part of body) {
    bytes += part.length;
    if (bytes > most) return null;
    parts.push(part);
  }
  return Buffer.concat(parts);
};
