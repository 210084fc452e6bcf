import { createHash, randomUUID } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { openStatement, type Statement, statementBytes } from '@aegis/archive/backup/statement';
import { type Directive, signDirective } from '@aegis/protocol/access/directive';
import type { Envelope } from '@aegis/protocol/access/dsse';
import { seal } from '@aegis/protocol/access/sealed-box';
import { type S3Destination, Work } from '@aegis/protocol/backups/config';
import type { ConfigBody, PresentConfig } from '@aegis/protocol/backups/directive';
import type {
  CloseUpload,
  ConfigReports,
  RunGrant,
  SealedCredentials,
  SignedRequest,
  SignRequests,
  StartRun,
} from '@aegis/protocol/backups/node-endpoints';
import { objectNames, type RunEnd, type RunObject, type RunProgress } from '@aegis/protocol/backups/run';
import * as z from 'zod/mini';
import { requestSigner } from '../../server/src/backups/s3/request-signer.ts';
import { sigV4, type Wanted } from '../src/backups/s3-signer.ts';
import { type MoreRoutes, startContractServer } from './contract-server.ts';
import { Refused } from './refused.ts';

/** The contract server with backups: it gives configurations, leaves to run and signatures, opens and completes uploads, and takes ends only
 *  when their objects lie at the destination as the signed statement says. */

export interface S3Account {
  access_key_id: string;
  secret_access_key: string;
}
export interface ServedRun {
  id: string;
  start: StartRun;
  attempt: number;
  generation: number;
  body: PresentConfig;
  prefix: string;
  cancelled: boolean;
  uploads: Map<string, { object: RunObject; key: string; closed: { bytes: number; sha256: string } | null }>;
  progress: RunProgress[];
  log: { level: string; message: string }[];
  end: RunEnd | null;
  /** Ends that were not taken. */
  refusedEnds: string[];
}

export interface BackupServerOptions {
  account?: S3Account;
  /** Where the server itself finds what nodes are told to find elsewhere: behind a proxy. */
  ownEndpoint?: string;
  conditionalWrites?: boolean;
}

const EMPTY = createHash('sha256').digest('hex');
const sha256Hex = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

/** By the real server's own signer, in the destination's way. */
const signedAsTheServer = (destination: S3Destination, account: S3Account, wanted: Wanted): SignedRequest => {
  const write = wanted.method === 'PUT';
  const kind = write ? (wanted.query?.partNumber === undefined ? 'put' : 'part') : 'get';
  const allowed = {
    kind,
    method: write ? 'PUT' : 'GET',
    key: wanted.key,
    query: Object.entries(wanted.query ?? {}),
    headers: wanted.headers ?? {},
    payloadSha256: wanted.payload_sha256,
    contentLength: write ? (wanted.content_length ?? 0) : null,
    slot: null,
  } as const;
  const { access_key_id: accessKeyId, secret_access_key: secretAccessKey } = account;
  return requestSigner(destination).sign(allowed, { accessKeyId, secretAccessKey }, null, Date.now());
};

export const startBackupServer = async ({
  account,
  ownEndpoint,
  conditionalWrites = true,
}: BackupServerOptions = {}) => {
  const runs = new Map<string, ServedRun>();
  const reports: ConfigReports[] = [];
  const signed: SignRequests[] = [];
  const refusedSigns: Wanted[] = [];
  const configs = new Map<string, { generation: number; body: ConfigBody; envelope: Envelope }>();
  let extra: readonly unknown[] = [];
  let bucketIsGone = false;
  let revision = 0;
  let forget: { config_id: string; run_id: string }[] = [];
  let prefixOf = (own: string): string => own;
  let sealingKey: Buffer | null = null;
  let sealed: SealedCredentials | null = null;

  const runOf = (id = '', attempt?: number): ServedRun => {
    const run = runs.get(id);
    if (!run) throw new Refused(404, 'backups.unknown_run');
    if (attempt !== undefined && attempt !== run.attempt)
      throw new Refused(409, 'backups.run_conflict', { attempt: run.attempt });
    return run;
  };
  const open = (id: string | undefined, attempt: number): ServedRun => {
    const run = runOf(id);
    if (run.end) throw new Refused(409, 'backups.run_ended');
    return runOf(id, attempt);
  };
  const destinationOf = (run: ServedRun): S3Destination => {
    const { destination } = run.body.work;
    if (destination.kind !== 's3') throw new Error('not S3');
    return destination;
  };
  const names = (run: ServedRun) => objectNames(run.body.work.encryption.recipients.length > 0);
  const credentials = (): SealedCredentials => {
    if (!account) throw new Error('no S3 account');
    return account;
  };
  /** The server's own requests go past any proxy. */
  const s3 = async (
    run: ServedRun,
    wanted: Wanted,
    body?: Buffer,
  ): Promise<{ status: number; bytes: Buffer; etag: string }> => {
    const destination = { ...destinationOf(run), ...(ownEndpoint === undefined ? {} : { endpoint: ownEndpoint }) };
    const full = { ...wanted, payload_sha256: body ? sha256Hex(body) : EMPTY };
    const { url, headers } = sigV4(full, { destination, credentials: credentials(), nowMs: Date.now() });
    const { host: _, ...rest } = headers;
    const answer = await fetch(url, { method: wanted.method, headers: rest, ...(body ? { body } : {}) });
    return {
      status: answer.status,
      bytes: Buffer.from(await answer.arrayBuffer()),
      etag: answer.headers.get('etag') ?? '',
    };
  };
  /** An object as it lies at the destination; null where it is not. */
  const objectOf = async (run: ServedRun, object: RunObject): Promise<Buffer | null> => {
    const { destination } = run.body.work;
    if (destination.kind === 'file') {
      const path = join(destination.path, run.prefix, names(run)[object]);
      return existsSync(path) ? readFileSync(path) : null;
    }
    const { status, bytes } = await s3(run, {
      method: 'GET',
      key: `${run.prefix}${names(run)[object]}`,
      payload_sha256: EMPTY,
    });
    return status === 200 ? bytes : null;
  };
  /** What the statement says of what lies there; or why it says nothing. */
  const proof = async (run: ServedRun, end: RunEnd): Promise<string | null> => {
    if (end.statement === null) return 'there is no statement';
    const [node] = [...server.nodes.values()];
    const { statement } = openStatement(end.statement, new Map([[server.nodeKeyId(), node?.key ?? Buffer.alloc(32)]]));
    const stated: Partial<Statement> = {
      run_id: run.id,
      attempt: run.attempt,
      prefix: run.prefix,
      state: end.state as 'completed',
    };
    for (const [key, value] of Object.entries(stated))
      if (statement[key as keyof Statement] !== value) return `${key} differs`;
    for (const object of ['archive', 'manifest'] as const) {
      const bytes = await objectOf(run, object);
      if (!bytes || bytes.length !== statement[object].bytes || sha256Hex(bytes) !== statement[object].sha256)
        return `the ${object} is not as the statement says`;
    }
    const lies = await objectOf(run, 'statement');
    return lies?.equals(statementBytes(end.statement)) ? null : 'the statement does not lie there';
  };

  const grantOf = (run: ServedRun): RunGrant => ({
    run_id: run.id,
    attempt: run.attempt,
    started_at: new Date().toISOString(),
    prefix: run.prefix,
    max_bytes: 1024 ** 4,
    sealed_credentials: sealed && sealingKey ? seal(Buffer.from(JSON.stringify(sealed)), sealingKey) : null,
    conditional_writes: conditionalWrites,
    cancelled: run.cancelled,
  });

  const routes: MoreRoutes[] = [
    {
      pattern: /^GET \/v1\/desired$/,
      handle: () => ({
        json: {
          directives: [...[...configs.values()].map(({ envelope }) => envelope), ...extra],
          revision,
          trust_version: 1,
        },
      }),
    },
    {
      pattern: /^PUT \/v1\/backups\/configs\/status$/,
      handle: ({ body }) => {
        reports.push(JSON.parse(body.toString()) as ConfigReports);
        return { json: { stored: true } };
      },
    },
    {
      pattern: /^POST \/v1\/backups\/runs$/,
      handle: ({ body: bytes }) => {
        const start = JSON.parse(bytes.toString()) as StartRun;
        const config = configs.get(start.config_id);
        const before = runs.get(start.run_id);
        if (before?.end) throw new Refused(409, 'backups.run_ended');
        if (before && before.attempt > start.attempt)
          throw new Refused(409, 'backups.run_conflict', { attempt: before.attempt });
        if (before && (before.attempt === start.attempt || before.cancelled)) return { json: grantOf(before) };
        if (config?.body.state !== 'present') throw new Refused(403, 'backups.not_assigned');
        if (config.generation !== start.generation) throw new Refused(409, 'backups.stale_generation');
        const { destination } = config.body.work;
        const [uid = ''] = [...server.nodes.keys()];
        const own = `${uid}/${start.config_id}/${start.run_id}/${start.attempt}/`;
        const run: ServedRun = {
          id: start.run_id,
          start,
          attempt: start.attempt,
          generation: start.generation,
          body: config.body,
          prefix: prefixOf(
            destination.kind === 's3' && destination.prefix !== '' ? `${destination.prefix}/${own}` : own,
          ),
          cancelled: false,
          uploads: new Map(),
          progress: before?.progress ?? [],
          log: before?.log ?? [],
          end: null,
          refusedEnds: before?.refusedEnds ?? [],
        };
        runs.set(run.id, run);
        return { json: grantOf(run) };
      },
    },
    {
      pattern: /^POST \/v1\/backups\/runs\/([^/]+)\/uploads$/,
      handle: async ({ params: [id], body }) => {
        const { attempt, object } = JSON.parse(body.toString()) as { attempt: number; object: RunObject };
        const run = open(id, attempt);
        const key = `${run.prefix}${names(run)[object]}`;
        const known = [...run.uploads].find(([, upload]) => upload.object === object);
        if (known) return { json: { upload_id: known[0], key } };
        const answer = await s3(run, { method: 'POST', key, query: { uploads: '' }, payload_sha256: EMPTY });
        if (bucketIsGone) throw new Refused(503, 'backups.destination_failed', {}, 'There is no such bucket.');
        const uploadId = /<UploadId>([^<]+)</.exec(answer.bytes.toString())?.[1];
        if (!uploadId) throw new Refused(503, 'backups.destination_failed');
        run.uploads.set(uploadId, { object, key, closed: null });
        return { json: { upload_id: uploadId, key } };
      },
    },
    {
      pattern: /^POST \/v1\/backups\/runs\/([^/]+)\/uploads\/complete$/,
      handle: async ({ params: [id], body }) => {
        const asked = JSON.parse(body.toString()) as CloseUpload;
        const run = open(id, asked.attempt);
        const upload = run.uploads.get(asked.upload_id);
        if (!upload) throw new Refused(404, 'backups.unknown_object');
        if (!upload.closed) {
          const parts = asked.parts.map(
            ({ number, etag }) =>
              `<Part><PartNumber>${number}</PartNumber><ETag>${etag.replaceAll('"', '&quot;')}</ETag></Part>`,
          );
          const xml = Buffer.from(`<CompleteMultipartUpload>${parts.join('')}</CompleteMultipartUpload>`);
          const answer = await s3(
            run,
            { method: 'POST', key: upload.key, query: { uploadId: asked.upload_id }, payload_sha256: '' },
            xml,
          );
          if (answer.status !== 200 || /<Error>/.test(answer.bytes.toString()))
            throw new Refused(422, 'backups.upload_mismatch', {}, answer.bytes.toString());
          upload.closed = { bytes: asked.bytes, sha256: asked.sha256 };
        }
        return { json: { key: upload.key, bytes: asked.parts.reduce((sum, part) => sum + part.bytes, 0) } };
      },
    },
    {
      pattern: /^POST \/v1\/backups\/sign$/,
      handle: ({ body }) => {
        const asked = JSON.parse(body.toString()) as SignRequests;
        signed.push(asked);
        const run = runOf(asked.run_id);
        const destination = destinationOf(run);
        return {
          json: {
            signed: asked.requests.map((wanted) => {
              const writes = wanted.method === 'PUT';
              const ours = wanted.key.startsWith(run.prefix);
              if (!ours || (writes && (run.end || run.cancelled)) || !['PUT', 'GET', 'HEAD'].includes(wanted.method)) {
                refusedSigns.push(wanted);
                throw new Refused(403, 'backups.sign_refused');
              }
              return signedAsTheServer(destination, credentials(), wanted);
            }),
          },
        };
      },
    },
    {
      pattern: /^POST \/v1\/backups\/runs\/([^/]+)\/progress$/,
      handle: ({ params: [id], body }) => {
        const progress = JSON.parse(body.toString()) as RunProgress;
        const run = open(id, progress.attempt);
        run.progress.push(progress);
        return { json: { cancelled: run.cancelled } };
      },
    },
    {
      pattern: /^POST \/v1\/backups\/runs\/([^/]+)\/log$/,
      handle: ({ params: [id], body }) => {
        const { lines } = JSON.parse(body.toString()) as { lines: ServedRun['log'] };
        runOf(id).log.push(...lines);
        return { json: { stored: lines.length } };
      },
    },
    {
      pattern: /^POST \/v1\/backups\/runs\/([^/]+)\/end$/,
      handle: async ({ params: [id], body }) => {
        const end = JSON.parse(body.toString()) as RunEnd;
        const run = runOf(id, end.attempt);
        if (!run.end) {
          const fault = end.statement === null ? null : await proof(run, end);
          if (fault !== null) {
            run.refusedEnds.push(fault);
            throw new Refused(422, 'backups.upload_mismatch', {}, fault);
          }
          run.end = end;
        }
        return { json: { stored: true, forget } };
      },
    },
    {
      pattern: /^GET \/v1\/backups\/runs\/([^/]+)$/,
      handle: ({ params: [id] }) => {
        const run = runOf(id);
        const { end, start, body } = run;
        const [node] = [...server.nodes.values()];
        return {
          json: {
            run: {
              run_id: run.id,
              config_id: start.config_id,
              config: body.name,
              node_uid: node?.uid ?? null,
              node: 'web-1',
              node_key: server.nodeKeyId(),
              trigger: start.trigger,
              state: end?.state ?? 'running',
              attempt: run.attempt,
              started_at: new Date().toISOString(),
              finished_at: end?.finished_at ?? null,
              progress: null,
              totals: end?.totals ?? null,
              archive_bytes: end?.archive_bytes ?? 0,
              uploaded_bytes: end?.uploaded_bytes ?? 0,
              errors: end?.errors ?? [],
              reason: end?.reason ?? null,
              encrypted: body.work.encryption.recipients.length > 0,
              destination: 'test',
              tags: [],
              locked_until: null,
              removed_at: null,
              verified: null,
            },
            destination: body.work.destination,
            prefix: run.prefix,
            node_public_key: node?.key.toString('base64') ?? null,
            sealed_credentials: grantOf(run).sealed_credentials,
          },
        };
      },
    },
  ];
  const server = await startContractServer({ more: routes });

  const directiveOf = (body: ConfigBody, generation: number, change: Partial<Directive> = {}): Directive => ({
    fleet: server.fleet,
    id: randomUUID(),
    kind: 'backups.config',
    targets: { node_keys: [server.nodeKeyId()] },
    issued_at: new Date().toISOString(),
    expires_at: new Date(Date.now() + 7 * 24 * 3_600_000 - 1000).toISOString(),
    max_attempts: 1,
    object_id: body.config_id,
    generation,
    body,
    ...change,
  });
  const put = (body: ConfigBody): number => {
    const generation = (configs.get(body.config_id)?.generation ?? 0) + 1;
    configs.set(body.config_id, {
      generation,
      body,
      envelope: signDirective(directiveOf(body, generation), server.serverKey),
    });
    server.setDesired(++revision);
    return generation;
  };
  const bodyOf = (
    work: z.input<typeof Work>,
    { name = 'etc', paused = false, config_id = randomUUID() }: Partial<PresentConfig> = {},
  ): PresentConfig => ({
    state: 'present',
    config_id,
    name,
    paused,
    work: z.parse(Work, work),
  });

  return Object.assign(server, {
    runs,
    reports,
    signed,
    refusedSigns,
    configs,
    objectOf,
    s3,
    directiveOf,
    bodyOf,
    put,
    /** Assigns it to the node, or its next generation. */
    configure: (work: z.input<typeof Work>, more: Partial<PresentConfig> = {}): PresentConfig => {
      const body = bodyOf(work, more);
      put(body);
      return body;
    },
    remove: (config_id: string): void => void put({ state: 'absent', config_id }),
    /** Beside what is assigned, and instead of what was given before: for a hostile answer. */
    give: (envelopes: readonly unknown[]): void => {
      extra = envelopes;
      server.setDesired(++revision);
    },
    /** The server finds it gone. */
    loseBucket: (): void => {
      bucketIsGone = true;
    },
    /** Another place than an honest server would grant. */
    setPrefix: (of: typeof prefixOf): void => {
      prefixOf = of;
    },
    setForget: (runIds: typeof forget): void => {
      forget = runIds;
    },
    /** In the sts and static ways. */
    sealTo: (key: Buffer, what: SealedCredentials): void => {
      sealingKey = key;
      sealed = what;
    },
    /** Of one configuration, the oldest first. */
    runsOf: (configId: string): ServedRun[] => [...runs.values()].filter(({ start }) => start.config_id === configId),
    /** What the node says of one configuration last. */
    reportOf: (configId: string) =>
      reports
        .findLast(({ configs: all }) => all.some((one) => one.config_id === configId))
        ?.configs.find((one) => one.config_id === configId),
  });
};

export type BackupServer = Awaited<ReturnType<typeof startBackupServer>>;
