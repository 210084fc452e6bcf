import { createHash } from 'node:crypto';
import { request } from 'node:http';
import { statementBytes } from '@aegis/archive/backup/statement';
import type { RunGrant, WantedRequest } from '@aegis/protocol/backups/node-endpoints';
import { closeUpload, openUpload, type SignedRequest, signRequests } from '@aegis/protocol/backups/node-endpoints';
import type { RunObject } from '@aegis/protocol/backups/run';
import type { Misbehaviour } from '../../../test/faults/hostile-s3.ts';
import { RADOSGW_REGION, type Radosgw } from '../../../test/fleet/radosgw.ts';
import { create, end, goodEnd, start, starting } from './backups-support.ts';
import type { EnrolledNode, TestServer } from './start-test-server.ts';

/** Runs to a real S3 server for tests, with a node that does by hand what a daemon does. */

export const sha256 = (bytes: string | Buffer): string => createHash('sha256').update(bytes).digest('hex');

export interface S3Answer {
  status: number;
  etag: string;
  /** S3's code of an error. */
  code: string;
  text: string;
}
/** Exactly these headers, whatever the body is. */
export const sendRaw = (
  method: string,
  url: string,
  headers: Readonly<Record<string, string>>,
  body: Buffer = Buffer.alloc(0),
): Promise<S3Answer> =>
  new Promise((resolve, reject) => {
    const { hostname, port, pathname, search } = new URL(url);
    const out = request({ hostname, port, path: `${pathname}${search}`, method, headers }, (answer) => {
      const parts: Buffer[] = [];
      answer.on('data', (part: Buffer) => parts.push(part));
      answer.on('error', reject);
      answer.on('end', () => {
        const text = Buffer.concat(parts).toString('utf8');
        const code = /<Code>([^<]*)<\/Code>/.exec(text)?.[1] ?? '';
        resolve({ status: answer.statusCode ?? 0, etag: String(answer.headers.etag ?? ''), code, text });
      });
    });
    out.on('error', reject);
    out.end(body);
  });

/** S3 does what it is asked; its own answer arrives when this is done, and never where this fails. */
export const answeredAfter =
  (gateway: Pick<Radosgw, 'proxyable'>, until: () => Promise<unknown>): Misbehaviour =>
  (from, to) => {
    const { method, url: path, headers } = from;
    const out = request({ ...gateway.proxyable, method, path, headers }, (answer) => {
      const parts: Buffer[] = [];
      answer.on('data', (part: Buffer) => parts.push(part));
      answer.on('end', () => {
        const send = () => to.writeHead(answer.statusCode ?? 0, answer.headers).end(Buffer.concat(parts));
        until().then(send, () => from.socket.destroy());
      });
    });
    out.on('error', () => from.socket.destroy());
    from.pipe(out);
  };

export interface S3Config {
  bucket: string;
  endpoint?: string;
  prefix?: string;
  destination?: Record<string, unknown>;
  /** Of the whole configuration. */
  more?: Record<string, unknown>;
  change?: Record<string, unknown>;
}
export const createS3Config = async (
  server: Pick<TestServer, 'as'>,
  gateway: Radosgw,
  { bucket, endpoint = gateway.endpoint, prefix = 'fleet/a', destination = {}, more = {}, change = {} }: S3Config,
) =>
  (
    await create(
      server,
      {
        name: 'home',
        nodes: ['all'],
        destination: {
          kind: 's3',
          bucket,
          region: RADOSGW_REGION,
          prefix,
          endpoint,
          path_style: true,
          ...destination,
        },
        ...more,
      },
      { credentials: { access_key_id: gateway.accessKey, secret_access_key: gateway.secretKey }, ...change },
    )
  ).config;

export interface NodeRun {
  id: string;
  grant: RunGrant;
  sign(...requests: Partial<WantedRequest>[]): Promise<SignedRequest[]>;
  open(object?: RunObject): Promise<{ upload_id: string; key: string }>;
  /** Signs a part and sends it. */
  part(upload: { upload_id: string; key: string }, number: number, body: Buffer): Promise<S3Answer>;
  put(key: string, body: Buffer): Promise<S3Answer>;
  close(
    upload: { upload_id: string },
    parts: readonly { number: number; etag: string; bytes: number }[],
    bytes: Buffer | { bytes: number; sha256: string },
    object?: RunObject,
  ): Promise<{ key: string; bytes: number }>;
  key(object: RunObject): string;
}
const NAMES = { archive: 'archive.tar.zst', manifest: 'manifest.ndjson.zst', statement: 'statement.json' } as const;

export const startRun = async (node: EnrolledNode, configId: string, more = {}): Promise<NodeRun> => {
  const grant = await start(node, starting(configId, more));
  return nodeRun(node, grant);
};
export const nodeRun = (node: EnrolledNode, grant: RunGrant): NodeRun => {
  const { run_id: id, attempt } = grant;
  const sign: NodeRun['sign'] = async (...requests) =>
    (
      await node.call(signRequests, {
        body: {
          run_id: id,
          requests: requests.map((one) => ({
            method: 'GET' as const,
            key: '',
            query: {},
            headers: {},
            content_length: 0,
            payload_sha256: sha256(''),
            ...one,
          })),
        },
      })
    ).signed;
  const signedPut = async (wanted: Partial<WantedRequest>, body: Buffer): Promise<S3Answer> => {
    const [signed] = await sign({
      method: 'PUT',
      ...wanted,
      content_length: body.length,
      payload_sha256: sha256(body),
    });
    return sendRaw('PUT', signed?.url ?? '', signed?.headers ?? {}, body);
  };
  return {
    id,
    grant,
    sign,
    key: (object) => `${grant.prefix}${NAMES[object]}`,
    open: (object = 'archive') => node.call(openUpload, { params: { id }, body: { attempt, object } }),
    part: ({ upload_id, key }, number, body) =>
      signedPut({ key, query: { uploadId: upload_id, partNumber: String(number) } }, body),
    put: (key, body) => signedPut({ key, headers: { 'if-none-match': '*' } }, body),
    close: ({ upload_id }, parts, of, object = 'archive') => {
      const { bytes, sha256: hash } = Buffer.isBuffer(of) ? { bytes: of.length, sha256: sha256(of) } : of;
      return node.call(closeUpload, {
        params: { id },
        body: { attempt, object, upload_id, parts: [...parts], bytes, sha256: hash },
      });
    },
  };
};

/** A whole object by parts of these. */
export const uploadWhole = async (run: NodeRun, object: RunObject, bodies: readonly Buffer[]) => {
  const upload = await run.open(object);
  const parts = [];
  for (const [at, body] of bodies.entries()) {
    const { status, etag, text } = await run.part(upload, at + 1, body);
    if (status !== 200) throw new Error(`part ${at + 1}: ${status} ${text}`);
    parts.push({ number: at + 1, etag, bytes: body.length });
  }
  await run.close(upload, parts, Buffer.concat(bodies), object);
  return upload;
};

/** A whole good run, its three objects stored and its end told. */
export const finishRun = async (
  node: EnrolledNode,
  configId: string,
  run: NodeRun,
  archive: Buffer,
  beforeEnd: () => Promise<unknown> = async () => undefined,
): Promise<void> => {
  const manifest = Buffer.from('a manifest');
  await uploadWhole(run, 'archive', [archive]);
  await created(run, run.key('manifest'), manifest);
  const told = goodEnd(
    node,
    configId,
    run.grant,
    {
      archive: { name: NAMES.archive, bytes: archive.length, sha256: sha256(archive) },
      manifest: { name: NAMES.manifest, bytes: manifest.length, sha256: sha256(manifest) },
    },
    { archive_bytes: archive.length, uploaded_bytes: archive.length + manifest.length },
  );
  if (told.statement === null) throw new Error('no statement');
  await created(run, run.key('statement'), statementBytes(told.statement));
  await beforeEnd();
  await end(node, run.id, told);
};
const created = async (run: NodeRun, key: string, body: Buffer): Promise<void> => {
  const { status, text } = await run.put(key, body);
  if (status !== 200) throw new Error(`${key}: ${status} ${text}`);
};
