import { createHash, randomUUID } from 'node:crypto';
import { AegisError } from '@aegis/protocol/errors';
import { type Clock, isoTime } from '../../platform/clock.ts';
import { s3Failure } from './failures.ts';
import { sendSigned } from './raw-request.ts';
import type { S3Store } from './store.ts';
import { assumeRole } from './sts.ts';

/** Tries a destination as runs will use it, and leaves nothing behind: reach, write, create-only writes, an upload in parts, object lock,
 *  the role. What fails is a note; `ok` is false where a backup could not be stored. */

export interface ProbeResult {
  at: string;
  ok: boolean;
  conditional_writes: boolean;
  notes: string[];
}

const FOLDER = 'aegis-probe';

export const probeStore = async (
  store: S3Store,
  { clock, credentials }: { clock: Clock; credentials: Parameters<typeof assumeRole>[0]['credentials'] },
): Promise<ProbeResult> => {
  const { destination } = store;
  const prefix = `${destination.prefix === '' ? '' : `${destination.prefix}/`}${FOLDER}/${randomUUID()}/`;
  const notes: string[] = [];
  const told = (ok: boolean, conditional_writes: boolean): ProbeResult => ({
    at: isoTime(clock.now()),
    ok,
    conditional_writes,
    notes,
  });
  /** False, with a note, where it fails. */
  const tried = async (work: () => Promise<unknown>): Promise<boolean> => {
    try {
      await work();
      return true;
    } catch (error) {
      if (!(error instanceof AegisError)) throw error;
      if (!notes.includes(error.message)) notes.push(error.message);
      return false;
    }
  };

  const key = `${prefix}object`;
  const [first, second] = [Buffer.from('first'), Buffer.from('second')];
  if (!(await tried(() => store.put(key, first, { createOnly: false })))) return told(false, false);
  const writes = await tried(async () => {
    const read = await store.get(key);
    const text = read === null ? null : await textOf(read.body, 64);
    if (text !== 'first')
      throw new AegisError(
        'backups.destination_failed',
        'What was written there was not read back as it was. Look after the S3 server.',
      );
  });
  let conditional = false;
  await tried(async () => {
    const replaced = await store.put(key, second, { createOnly: true });
    const fresh = await store.put(`${key}-2`, first, { createOnly: true });
    conditional = !replaced && fresh;
  });
  if (!conditional)
    notes.push(
      'It does not refuse to replace an object (If-None-Match on PutObject). Nodes write through multipart uploads only, which the server completes.',
    );
  const holds =
    (destination.access !== 'signed' && destination.access !== 'presigned') ||
    (await tried(async () => notes.push(...(await unsignedHeaders(store, prefix, key)))));
  const uploads = await tried(async () => {
    const id = await store.createUpload(`${prefix}upload`);
    const listed: string[] = [];
    for await (const upload of store.listUploads(prefix)) listed.push(upload.uploadId);
    await store.abortUpload(`${prefix}upload`, id);
    if (!listed.includes(id))
      notes.push(
        'It does not list multipart uploads that are under way: what is left of broken runs has to be removed by a rule of the bucket.',
      );
  });
  const lists = await tried(async () => {
    for await (const _ of store.list(prefix)) break;
  });
  const lock = destination.object_lock_days === undefined || (await tried(() => checkLock(store)));
  const role =
    destination.access !== 'sts' ||
    (await tried(() =>
      assumeRole({
        destination,
        credentials,
        bounds: store.bounds,
        prefix,
        purpose: 'write',
        sessionName: 'aegis-probe',
      }),
    ));
  const removed = await tried(async () => {
    const { locked } = await store.deleteBelow(prefix);
    if (locked.length > 0)
      notes.push(
        'The bucket locks every object by a rule of its own: the objects of this probe stay until it lets them go.',
      );
  });
  if (!store.tls && !isLoopback(destination.endpoint ?? ''))
    notes.push('It is reached without TLS: what is not encrypted for recipients can be read on the way.');
  return told(writes && holds && uploads && lists && lock && role && removed, conditional);
};

/** Amazon refuses a request with a header of x-amz that was not signed. Servers that do not care let a node add to what it may do.
 *  @throws AegisError where it could read what is not its own */
const unsignedHeaders = async (store: S3Store, prefix: string, source: string): Promise<string[]> => {
  const { destination, bounds } = store;
  const body = Buffer.from('unsigned');
  const takes = async (name: string, more: Record<string, string>): Promise<boolean> => {
    const [signed] = await store.sign([
      {
        kind: 'put',
        method: 'PUT',
        key: `${prefix}${name}`,
        query: [],
        headers: {},
        payloadSha256: createHash('sha256').update(body).digest('hex'),
        contentLength: body.length,
        slot: null,
      },
    ]);
    if (!signed) return false;
    try {
      const headers = { ...signed.headers, ...more };
      const status = await sendSigned('PUT', { url: signed.url, headers }, body, destination, bounds);
      return status >= 200 && status < 300;
    } catch (error) {
      throw s3Failure(error, 'Writing an object', destination);
    }
  };
  if (!(await takes('plain', {})))
    throw new AegisError(
      'backups.destination_failed',
      "It does not take what this server signs, while it takes the SDK's own requests. Look at destination.endpoint, region and path_style.",
    );
  const copies =
    (await takes('copy', { 'x-amz-copy-source': `/${destination.bucket}/${source}` })) &&
    (await store.head(`${prefix}copy`))?.bytes !== body.length;
  if (copies)
    throw new AegisError(
      'backups.bad_destination',
      "It copies objects for a header that was not signed: a node could read others' archives. Use access = 'sts', or another server.",
    );
  return (await takes('acl', { 'x-amz-acl': 'private' }))
    ? [
        'It heeds headers of x-amz that were not signed: a node could open its own archives to others (x-amz-acl). Encrypt for recipients, or forbid access lists by a policy of the bucket.',
      ]
    : [];
};

const checkLock = async (store: S3Store): Promise<void> => {
  const isOn = await store.hasObjectLock();
  if (!isOn)
    throw new AegisError(
      'backups.bad_destination',
      'The bucket was made without object lock, which object_lock_days needs. Make one with it, or leave object_lock_days out.',
    );
};

const textOf = async (body: AsyncIterable<Buffer>, most: number): Promise<string> => {
  const parts: Buffer[] = [];
  let bytes = 0;
  for await (const part of body) {
    parts.push(part);
    bytes += part.length;
    if (bytes > most) break;
  }
  return Buffer.concat(parts).toString('utf8');
};
const isLoopback = (endpoint: string): boolean =>
  URL.canParse(endpoint) && /^(?:localhost|127\.[\d.]+|\[::1\])$/.test(new URL(endpoint).hostname);
