import { openStatement, type Statement } from '@aegis/archive/backup/statement';
import { objectNames, type RunEnd } from '@aegis/protocol/backups/run';
import { AegisError } from '@aegis/protocol/errors';
import type { RunRow } from './tables.ts';

const MAX_CHARS = 16 * 1024;

/** Whether the statement that comes with a good end is signed by the run's node and speaks of this very attempt.
 *  @throws AegisError backups.bad_statement */
export const checkStatement = (end: RunEnd, run: RunRow, signer: { keyId: string; publicKey: Buffer }): Statement => {
  if (end.statement === null) throw differs('is missing');
  if (JSON.stringify(end.statement).length > MAX_CHARS) throw differs(`is longer than ${MAX_CHARS / 1024} KiB`);
  const statement = opened(end.statement, signer);
  const names = objectNames(run.encrypted === 1);
  const wanted: [field: string, says: unknown, is: unknown][] = [
    ['run_id', statement.run_id, run.id],
    ['config_id', statement.config_id, run.config_id],
    ['node_uid', statement.node_uid, run.node_uid],
    ['attempt', statement.attempt, run.attempt],
    ['prefix', statement.prefix, run.prefix],
    ['encrypted', statement.encrypted, run.encrypted === 1],
    ['archive.name', statement.archive.name, names.archive],
    ['manifest.name', statement.manifest.name, names.manifest],
    ['state', statement.state, end.state],
    ['archive.bytes', statement.archive.bytes, end.archive_bytes],
    ['totals', JSON.stringify(statement.totals), JSON.stringify(end.totals)],
  ];
  for (const [field, says, is] of wanted)
    if (says !== is) throw differs(`says ${field} ${JSON.stringify(says)}, the run ${JSON.stringify(is)}`);
  if (statement.archive.bytes + statement.manifest.bytes > run.max_bytes)
    throw differs(`speaks of more bytes than the ${run.max_bytes} that the run may write`);
  return statement;
};

const opened = (
  envelope: NonNullable<RunEnd['statement']>,
  signer: { keyId: string; publicKey: Buffer },
): Statement => {
  try {
    return openStatement(envelope, new Map([[signer.keyId, signer.publicKey]])).statement;
  } catch (cause) {
    if (!(cause instanceof AegisError)) throw cause;
    throw cause.code === 'backups.bad_statement'
      ? cause
      : new AegisError('backups.bad_statement', "The statement is not signed by this node's own key.", { cause });
  }
};
const differs = (how: string): AegisError =>
  new AegisError('backups.bad_statement', `The statement ${how}. The run is not complete: begin another attempt.`);
