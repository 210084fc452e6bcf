import { randomBytes, randomUUID, sign, verify } from 'node:crypto';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { zstdDecompressSync } from 'node:zlib';
import { type Directive, signDirective } from '@aegis/protocol/access/directive';
import { type Envelope, openEnvelope, PAYLOAD_TYPES } from '@aegis/protocol/access/dsse';
import { formatJoinToken } from '@aegis/protocol/access/join-token';
import { generateKeyPair, type KeyPair, keyIdOf, publicKeyFromRaw } from '@aegis/protocol/access/keys';
import { signTrustBundle, type TrustBundle } from '@aegis/protocol/access/trust-bundle';
import type { Chunk, PostedReport, Report, RunBody } from '@aegis/protocol/commands/carrier';
import {
  enrolmentTranscript,
  joinTokenMac,
  type RegisterComplete,
  type RegisterInit,
  type RegisterInitAnswer,
} from '@aegis/protocol/nodes/enrolment';
import { contractExecutions, type StoredExecution } from './contract-executions.ts';
import { Refused } from './refused.ts';

/** A server in memory that speaks the node's side of the contract and can be told to lie, forget or refuse. */

export interface Offer {
  kind: 'command.run' | 'command.cancel';
  command_id: string;
  execution_id: string;
  attempt: number;
  directive: Envelope;
}

export interface Lies {
  trust?: Envelope;
  /** Versions after the first, as nodes walk them. */
  trustChain?: Envelope[];
  init?: (answer: RegisterInitAnswer) => RegisterInitAnswer;
  /** Answers of these endpoints are committed, then thrown away, this often. */
  loseAnswers?: Record<string, number>;
}

/** A part of the contract that another file speaks. */
export interface MoreRoutes {
  pattern: RegExp;
  /** Answers JSON, or takes the response over. */
  handle(request: {
    params: string[];
    body: Buffer;
    response: ServerResponse;
  }): { json: unknown } | 'taken' | Promise<{ json: unknown } | 'taken'>;
}

export interface ContractOptions {
  fleet?: string;
  lies?: Lies;
  root?: KeyPair;
  /** Besides the server's own. */
  keys?: TrustBundle['keys'];
  more?: readonly MoreRoutes[];
}

export const startContractServer = async (options: ContractOptions = {}) => {
  const fleet = options.fleet ?? 'test';
  const lies: Lies = options.lies ?? {};
  const root = options.root ?? generateKeyPair();
  const serverKey = generateKeyPair();
  const rawText = (raw: Buffer) => raw.toString('base64');
  const bundleWith = (change: Partial<TrustBundle> = {}): TrustBundle => ({
    fleet,
    version: 1,
    previous: null,
    issued_at: new Date().toISOString(),
    expires_at: '2100-01-01T00:00:00.000Z',
    root: { threshold: 1, keys: [rawText(root.publicRaw)] },
    keys: [
      {
        keyid: serverKey.keyId,
        public_key: rawText(serverKey.publicRaw),
        name: 'server',
        usage: ['serve'],
        state: 'active',
      },
      ...(options.keys ?? []),
    ],
    ...change,
  });
  const trustBundle = signTrustBundle(bundleWith(), root);
  const joinSecret = randomBytes(32).toString('base64url');
  const joinToken = formatJoinToken({ id: 'join1', secret: joinSecret, rootFingerprint: root.keyId });

  const registrations = new Map<
    string,
    { init: RegisterInit; challenge: Buffer; answer?: { agent_uid: string; token: string; expires_at: string } }
  >();
  const nodes = new Map<string, { uid: string; key: Buffer; token: string }>();
  let completions = 0;
  const { executions, know, known, store, storeChunk, takeReport } = contractExecutions((envelope, report) =>
    signedByNode(envelope, report),
  );
  const offers = new Map<string, Offer>();
  let wake: (() => void)[] = [];
  const requests: string[] = [];
  let desired = 0;
  let refuseAll: { status: number; body: unknown } | null = null;

  const nodeKeyId = (): string => {
    const first = [...nodes.values()][0];
    if (!first) throw new Error('no node is enrolled');
    return keyIdOf(first.key);
  };

  const routes: Record<string, (body: Buffer, url: URL, params: string[]) => unknown | Promise<unknown>> = {
    'GET /api/v1/trust': () => ({ trust_bundle: lies.trust ?? trustBundle, root_fingerprint: root.keyId }),
    'GET /api/v1/trust/versions': (_, url) => {
      const chain = [trustBundle, ...(lies.trustChain ?? [])];
      return { trust_bundles: chain.slice(Number(url.searchParams.get('from')) - 1), newest: chain.length };
    },
    'POST /agents/register/init': (bytes) => {
      const init = JSON.parse(bytes.toString()) as RegisterInit;
      const registrationId = randomUUID();
      const challenge = randomBytes(32);
      registrations.set(registrationId, { init, challenge });
      const facts = {
        fleet,
        rootFingerprint: root.keyId,
        serverKey: serverKey.publicRaw,
        challenge,
        registrationId,
        init,
      };
      const answer: RegisterInitAnswer = {
        registration_id: registrationId,
        challenge: challenge.toString('base64'),
        expires_at: new Date(Date.now() + 60_000).toISOString(),
        trust_bundle: trustBundle,
        server_key: rawText(serverKey.publicRaw),
        signature: sign(null, enrolmentTranscript('server', facts), serverKey.privateKey).toString('base64'),
      };
      return lies.init ? lies.init(answer) : answer;
    },
    'POST /agents/register/complete': (bytes) => {
      const asked = JSON.parse(bytes.toString()) as RegisterComplete;
      const registration = registrations.get(asked.registration_id);
      if (!registration) throw new Refused(404, 'nodes.unknown_registration');
      const { init, challenge } = registration;
      const transcript = enrolmentTranscript('node', {
        fleet,
        rootFingerprint: root.keyId,
        serverKey: serverKey.publicRaw,
        challenge,
        registrationId: asked.registration_id,
        init,
      });
      const nodeKey = Buffer.from(init.public_key, 'base64');
      if (!verify(null, transcript, publicKeyFromRaw(nodeKey), Buffer.from(asked.signature, 'base64')))
        throw new Refused(403, 'nodes.bad_proof');
      if (init.token_id && joinTokenMac(joinSecret, transcript).toString('base64') !== asked.token_mac)
        throw new Refused(401, 'nodes.bad_join_token');
      if (!registration.answer) {
        completions++;
        const uid = randomUUID();
        const token = randomBytes(16).toString('hex');
        nodes.set(uid, { uid, key: nodeKey, token });
        registration.answer = { agent_uid: uid, token, expires_at: new Date(Date.now() + 86_400_000).toISOString() };
      }
      return registration.answer;
    },
    'POST /agents/token': (bytes) => {
      const { agent_uid } = JSON.parse(bytes.toString()) as { agent_uid: string };
      const node = nodes.get(agent_uid);
      if (!node) throw new Refused(404, 'nodes.unknown_node');
      node.token = randomBytes(16).toString('hex');
      return { agent_uid, token: node.token, expires_at: new Date(Date.now() + 86_400_000).toISOString() };
    },
    'GET /v1/commands/poll': async (_bytes, url) => {
      const wait = Number(url.searchParams.get('wait'));
      const asked = url.searchParams.get('desired');
      if (offers.size === 0 && wait > 0 && !(asked !== null && desired > Number(asked)))
        await new Promise<void>((resolve) => {
          const timer = setTimeout(resolve, wait * 1000);
          wake.push(() => {
            clearTimeout(timer);
            resolve();
          });
        });
      return {
        commands: [...offers.values()].slice(0, 100),
        server_time: new Date().toISOString(),
        ...(asked === null ? {} : { desired }),
      };
    },
    'POST /v1/commands/ack': (bytes) => {
      const { ids } = JSON.parse(bytes.toString()) as { ids: string[] };
      for (const id of ids) {
        for (const [key, offer] of offers) if (offer.execution_id === id) offers.delete(key);
        const execution = executions.get(id);
        if (execution) execution.acknowledged++;
        if (execution?.state === 'queued') execution.state = 'delivered';
      }
      return { acknowledged: ids.length };
    },
    'POST /v1/commands/logs': (bytes) => {
      const { execution_id, chunks } = JSON.parse(bytes.toString()) as { execution_id: string; chunks: Chunk[] };
      const execution = known(execution_id);
      for (const chunk of chunks) storeChunk(execution, chunk);
      return { next: execution.next };
    },
    'POST /v1/commands/status': (bytes) => {
      const { reports } = JSON.parse(bytes.toString()) as { reports: PostedReport[] };
      return { results: reports.map(takeReport) };
    },
    'PUT /v1/executions/ID/output/STREAM': (bytes, url, [id, stream]) => {
      const execution = known(id ?? '');
      store(execution, stream as 'stdout' | 'stderr', Number(url.searchParams.get('offset')), bytes);
      return { next: execution.next };
    },
  };

  const signedByNode = (envelope: Envelope, report: Report): boolean => {
    const keys = new Map([...nodes.values()].map((node) => [keyIdOf(node.key), publicKeyFromRaw(node.key)]));
    const { payload, signedBy } = openEnvelope(envelope, PAYLOAD_TYPES.report, keys);
    return signedBy.length === 1 && payload.toString() === JSON.stringify(report);
  };

  const handle = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    const url = new URL(request.url ?? '/', 'http://localhost');
    const parts: Buffer[] = [];
    for await (const part of request as AsyncIterable<Buffer>) parts.push(part);
    let body = Buffer.concat(parts);
    if (request.headers['content-encoding'] === 'zstd') body = zstdDecompressSync(body);
    const put = /^\/v1\/executions\/([^/]+)\/output\/(stdout|stderr)$/.exec(url.pathname);
    const key = `${request.method} ${put ? '/v1/executions/ID/output/STREAM' : url.pathname}`;
    requests.push(key);
    let status = 200;
    let answer: unknown;
    try {
      if (refuseAll) {
        status = refuseAll.status;
        answer = refuseAll.body;
      } else {
        const route = routes[key];
        const more = (options.more ?? []).find(({ pattern }) => pattern.test(key));
        if (!route && !more) throw new Refused(404, 'http.not_found');
        const needsToken = more !== undefined || key.includes(' /v1/');
        const token = /^Bearer (.*)$/.exec(request.headers.authorization ?? '')?.[1];
        if (needsToken && ![...nodes.values()].some((node) => node.token === token))
          throw new Refused(401, 'access.unauthenticated');
        if (route) answer = await route(body, url, put ? put.slice(1) : []);
        else if (more) {
          const told = await more.handle({ params: more.pattern.exec(key)?.slice(1) ?? [], body, response });
          if (told === 'taken') return;
          answer = told.json;
        }
      }
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      status = error.status;
      answer = { error: { code: error.code, message: error.message, details: error.details }, request_id: 'r' };
    }
    const lost = lies.loseAnswers?.[key] ?? 0;
    if (lost > 0 && lies.loseAnswers) {
      lies.loseAnswers[key] = lost - 1;
      request.socket.destroy();
      return;
    }
    response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(answer));
  };
  const server = createServer((request, response) => {
    handle(request, response).catch((error: unknown) => {
      response.writeHead(500).end(String(error));
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;

  const offer = (one: Offer): void => {
    offers.set(`${one.kind} ${one.execution_id} ${one.attempt} ${randomUUID()}`, one);
    for (const resolve of wake.splice(0)) resolve();
  };
  const runDirective = (payload: unknown, change: Partial<Directive> = {}, body: Partial<RunBody> = {}): Directive => ({
    fleet,
    id: randomUUID(),
    kind: 'command.run',
    targets: { node_keys: [nodeKeyId()] },
    issued_at: new Date().toISOString(),
    expires_at: new Date(Date.now() + 3_600_000).toISOString(),
    max_attempts: 1,
    body: {
      command_type: 'RunCommand',
      payload,
      priority: 'normal',
      delivery: 'at-most-once',
      output_limit_bytes: 0,
      ...body,
    },
    ...change,
  });

  return {
    url,
    fleet,
    root,
    serverKey,
    joinToken,
    joinSecret,
    trustBundle,
    bundleWith,
    lies,
    requests,
    nodes,
    executions,
    completions: () => completions,
    nodeKeyId,
    runDirective,
    know,
    offer,
    /** Submits and offers one command. */
    submit(payload: unknown, change: Partial<Directive> = {}, body: Partial<RunBody> = {}): StoredExecution {
      const directive = runDirective(payload, change, body);
      const execution = know(directive.id);
      offer({
        kind: 'command.run',
        command_id: directive.id,
        execution_id: execution.id,
        attempt: 1,
        directive: signDirective(directive, serverKey),
      });
      return execution;
    },
    cancel(execution: StoredExecution): void {
      const { body: _, ...base } = runDirective({});
      const directive: Directive = { ...base, kind: 'command.cancel', body: { command_id: execution.commandId } };
      offer({
        kind: 'command.cancel',
        command_id: execution.commandId,
        execution_id: execution.id,
        attempt: 1,
        directive: signDirective(directive, serverKey),
      });
    },
    /** The revision of the node's desired state, told to whoever asks with an older one. */
    setDesired: (revision: number): void => {
      desired = revision;
      for (const resolve of wake.splice(0)) resolve();
    },
    desired: (): number => desired,
    refuseAll: (status: number | null): void => {
      refuseAll = status === null ? null : { status, body: {} };
      for (const resolve of wake.splice(0)) resolve();
    },
    output: (execution: StoredExecution, stream: 'stdout' | 'stderr' = 'stdout'): Buffer =>
      Buffer.concat(execution.output[stream]),
    close: async (): Promise<void> => {
      for (const resolve of wake.splice(0)) resolve();
      wake = [];
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
    async [Symbol.asyncDispose](): Promise<void> {
      await this.close();
    },
  };
};

export type ContractServer = Awaited<ReturnType<typeof startContractServer>>;
