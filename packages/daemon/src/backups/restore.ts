import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { type KeyPair, keyIdOf } from '@aegis/protocol/access/keys';
import type { RestoreSource } from '@aegis/protocol/backups/node-endpoints';
import type { RestorePayload } from '@aegis/protocol/commands/backup-types';
import { AegisError, isErrorCode } from '@aegis/protocol/errors';
import type { Clock } from '../platform/clock.ts';
import type { HttpClient } from '../platform/http/client.ts';
import { openCredentials } from './attempt.ts';
import { failureOf } from './failure.ts';
import type { FromRestore, RestoreDone, RestoreJob, ToRestore } from './restore-job.ts';
import { type RunDoor, runDoor } from './run-door.ts';
import { credentialSigner, type S3Signer } from './s3-signer.ts';
import type { Tell } from './service.ts';
import { endThread, startThread } from './thread.ts';

/** Restores a run here, on request of whoever may open the control socket. Where it lies the server says; that it is genuine, its node's key:
 *  this node's own, or one that the request names. */

export type RestoreRequest = Omit<RestorePayload, 'timeout_sec' | 'grace_sec'>;

export interface RestoreOptions {
  client: HttpClient;
  signing: KeyPair;
  unseal(text: string): Buffer;
  nativeDir: string | undefined;
  /** Where threads put what does not fit into memory. */
  spool: string;
  newId(): string;
  limits: { retryMs: number; stallMs: number };
  clock: Clock;
  random: () => number;
}

/** How long the thread may take to notice that it is to end. */
const ABORT_MS = 5000;

/** @throws AegisError backups.*, access.bad_signature for identities that are not sealed to this node */
export const restoreHere = async (
  request: RestoreRequest,
  options: RestoreOptions,
  { tell, signal }: { tell: Tell; signal: AbortSignal },
): Promise<void> => {
  const { client, random, clock, limits } = options;
  const door = runDoor({ client, random, clock, retryMs: limits.retryMs, signal });
  const source = await door.source(request.run_id);
  const { sealed_identities: sealed } = request;
  const identities = sealed === undefined ? null : options.unseal(sealed);
  const spoolDir = join(options.spool, `restore-${options.newId()}`);
  await mkdir(spoolDir, { recursive: true, mode: 0o700 });
  try {
    const job: RestoreJob = {
      kind: 'restore',
      runId: request.run_id,
      from: fromOf(source, options),
      encrypted: source.run.encrypted,
      trusted: trustedKeys(source, request, options.signing),
      identities: identities?.toString('utf8') ?? null,
      target: request.target,
      paths: request.paths,
      overwrite: request.overwrite,
      deleteExtra: request.delete,
      dryRun: request.dry_run,
      owners: request.owners,
      setuid: request.setuid,
      spoolDir,
    };
    const signer = signerFor(source, door, options);
    const done = await inThread(job, signer, options, { tell, signal });
    const state = done.error_count === 0 ? 'completed' : 'completed_with_errors';
    await tell({ type: 'restore', run_id: request.run_id, state, dry_run: request.dry_run, ...done });
  } finally {
    identities?.fill(0);
    await rm(spoolDir, { recursive: true, force: true });
  }
};

const fromOf = ({ destination, prefix }: RestoreSource, { limits }: RestoreOptions): RestoreJob['from'] =>
  destination.kind === 's3'
    ? { kind: 's3', prefix, ca: destination.ca ?? null, ...limits }
    : { kind: 'file', root: destination.path, segments: prefix.split('/').filter((segment) => segment !== '') };

/** The server carries another node's public key; that it is the one that was asked for, its id proves. */
const trustedKeys = (
  { run, node_public_key: carried }: RestoreSource,
  { node_keys }: RestoreRequest,
  own: KeyPair,
): RestoreJob['trusted'] => {
  const trusted: [string, string][] = [[own.keyId, own.publicRaw.toString('base64')]];
  if (carried !== undefined && carried !== null && run.node_key !== own.keyId) {
    const raw = Buffer.from(carried, 'base64');
    const keyId = keyIdOf(raw);
    if (raw.length === 32 && keyId === run.node_key && node_keys.includes(keyId)) trusted.push([keyId, carried]);
  }
  return trusted;
};

const signerFor = (source: RestoreSource, door: RunDoor, { unseal, clock }: RestoreOptions): S3Signer => {
  const { destination, run } = source;
  if (destination.kind !== 's3' || destination.access === 'signed' || destination.access === 'presigned')
    return { sign: (wanted) => door.sign(run.run_id, wanted), stale: () => undefined };
  let first: string | null = source.sealed_credentials;
  return credentialSigner({
    destination,
    now: clock.now,
    fetch: async () => {
      const sealed = first ?? (await door.source(run.run_id)).sealed_credentials;
      first = null;
      return openCredentials(sealed, unseal);
    },
  });
};

const inThread = (
  job: RestoreJob,
  signer: S3Signer,
  { nativeDir }: RestoreOptions,
  { tell, signal }: { tell: Tell; signal: AbortSignal },
): Promise<RestoreDone> => {
  const worker = startThread(job, nativeDir);
  const say = (message: ToRestore): void => worker.postMessage(message);
  let timer: NodeJS.Timeout | null = null;
  let telling: Promise<void> = Promise.resolve();
  let onAbort = (): void => undefined;
  const sign = (id: number, wanted: Extract<FromRestore, { type: 'sign' }>['wanted']): void => {
    signer.sign(wanted).then(
      (signed) => say({ type: 'signed', id, signed }),
      (error: unknown) => {
        const { code, message } = failureOf(error);
        say({ type: 'not-signed', id, code, message });
      },
    );
  };
  return new Promise<RestoreDone>((resolve, reject) => {
    const ended = (): void => reject(new AegisError('backups.cancelled', 'The thread that restores was ended.'));
    onAbort = (): void => {
      say({ type: 'abort' });
      timer = setTimeout(ended, ABORT_MS);
    };
    worker.on('message', (message: FromRestore) => {
      if (message.type === 'progress') telling = telling.then(() => tell({ type: 'progress', ...message.progress }));
      else if (message.type === 'sign') sign(message.id, message.wanted);
      else if (message.type === 'stale') signer.stale();
      else if (message.type === 'done') resolve(message.done);
      else {
        const { code } = message;
        const known = code !== null && isErrorCode(code) ? code : null;
        reject(
          new AegisError(
            known ?? 'backups.restore_incomplete',
            known ? message.message : `The restore ended: ${message.message}.`,
          ),
        );
      }
    });
    worker.on('error', (cause) =>
      reject(new AegisError('http.internal', `The thread that restores failed: ${String(cause)}`, { cause })),
    );
    worker.on('exit', ended);
    if (signal.aborted) onAbort();
    signal.addEventListener('abort', onAbort, { once: true });
  }).finally(async () => {
    signal.removeEventListener('abort', onAbort);
    if (timer) clearTimeout(timer);
    await endThread(worker, ABORT_MS);
    await telling;
  });
};
