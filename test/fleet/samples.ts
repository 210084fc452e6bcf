import { randomBytes, randomUUID, sign } from 'node:crypto';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { signDirective } from '@aegis/protocol/access/directive';
import { type Envelope, PAYLOAD_TYPES, signEnvelope } from '@aegis/protocol/access/dsse';
import * as access from '@aegis/protocol/access/endpoints';
import { parseJoinToken } from '@aegis/protocol/access/join-token';
import { generateKeyPair, type KeyPair } from '@aegis/protocol/access/keys';
import { formatMinisignPublicKey } from '@aegis/protocol/access/minisign';
import { generateMinisignKey } from '@aegis/protocol/access/minisign-secret-key';
import * as artifacts from '@aegis/protocol/artifacts/endpoints';
import type { StatusReport } from '@aegis/protocol/artifacts/status';
import type { Report } from '@aegis/protocol/commands/carrier';
import * as commands from '@aegis/protocol/commands/endpoints';
import { type Endpoint, pathOf } from '@aegis/protocol/endpoint';
import * as messages from '@aegis/protocol/messages/endpoints';
import * as nodeMessages from '@aegis/protocol/messages/node-endpoints';
import * as nodes from '@aegis/protocol/nodes/endpoints';
import { tokenRequestTranscript } from '@aegis/protocol/nodes/enrolment';
import { openApi } from '../../packages/server/src/platform/http/openapi.ts';
import { bundle, publish, signatureOf, trustedSignatory } from '../../packages/server/test/artifacts-support.ts';
import { enrolThrough } from '../../packages/server/test/start-test-server.ts';
import { type TestClient, testClient } from '../../packages/server/test/test-client.ts';
import { stageBackups } from './backup-samples.ts';
import type { Asked } from './exchange.ts';
import { root } from './fleet.ts';

/** A server with something of everything in it, and for each endpoint of the protocol one good request. The list is read from the
 *  protocol's folders: an endpoint without a sample fails the tests that need one, by name. */

export const allEndpoints = async (): Promise<Endpoint[]> => {
  const folder = join(root, 'packages/protocol/src');
  const found: Endpoint[] = [openApi];
  for (const domain of readdirSync(folder, { withFileTypes: true }).filter((entry) => entry.isDirectory())) {
    for (const file of readdirSync(join(folder, domain.name)).filter((name) => ENDPOINTS.test(name))) {
      const module = (await import(join(folder, domain.name, file))) as Record<string, unknown>;
      found.push(...Object.values(module).filter(isEndpoint));
    }
  }
  return found;
};
const ENDPOINTS = /^((node|agent|audit|trust)-)?endpoints\.ts$/;
const isEndpoint = (value: unknown): value is Endpoint =>
  typeof value === 'object' && value !== null && 'door' in value && 'caller' in value;

export interface Sample {
  params?: Readonly<Record<string, string>>;
  query?: Readonly<Record<string, string>>;
  body?: unknown;
  /** Bytes instead of JSON. */
  raw?: Buffer;
}

export interface Staged {
  url: string;
  /** Bearers by who calls. */
  bearers: { viewer: string; operator: string; admin: string; node: string; other: string; keyless: string };
  node: StagedNode;
  other: StagedNode;
  samples: Readonly<Record<string, Sample>>;
}
export interface StagedNode extends TestClient {
  uid: string;
  name: string;
  token: string;
  keys: KeyPair;
  /** Delivered to it and running. */
  running: { commandId: string; executionId: string };
  /** Not fetched yet. */
  queued: { commandId: string; executionId: string };
}

/** @param now the server's time */
export const stage = async (url: string, adminToken: string, now = Date.now()): Promise<Staged> => {
  const as = (bearer: string | undefined) =>
    testClient(
      () => url,
      async () => bearer,
    );
  const admin = as(adminToken);
  const tokenOf = async (role: 'viewer' | 'operator') =>
    (await admin.call(access.createToken, { body: { name: `stage-${role}`, role } })).token;
  const trust = await admin.call(access.showTrust);
  const { fleet } = JSON.parse(Buffer.from(trust.trust_bundle.payload, 'base64').toString()) as { fleet: string };
  const joinToken = async () => (await admin.call(access.createJoinToken, { body: { uses: 1 } })).join_token;

  const submitTo = async (name: string, argv: string[]) => {
    const answer = await admin.call(commands.submitCommand, {
      body: { targets: [name], command_type: 'exec', payload: { argv }, output_limit_bytes: 1_000_000 },
    });
    return { commandId: answer.command_id ?? '', executionId: answer.targets[0]?.execution_id ?? '' };
  };
  const enrol = async (name: string): Promise<StagedNode> => {
    const keys = generateKeyPair();
    const join = parseJoinToken(await joinToken());
    const answer = await enrolThrough(as(undefined), { host_id: name, token_id: join.id }, keys, join.secret, {
      fleet,
      rootFingerprint: trust.root_fingerprint,
    });
    const client = as(answer.token);
    const running = await submitTo(name, ['sleep', '1000']);
    await client.call(commands.pollCommands);
    await client.call(commands.ackCommands, { body: { ids: [running.executionId] } });
    await client.call(commands.pushLogs, {
      body: {
        command_id: running.commandId,
        execution_id: running.executionId,
        chunks: [{ stream: 'stdout', offset: 0, data: `secret of ${name}\n` }],
      },
    });
    await client.call(commands.pushStatus, {
      body: { command_id: running.commandId, execution_id: running.executionId, state: 'running' },
    });
    const queued = await submitTo(name, ['true']);
    return { ...client, uid: answer.agent_uid, name, token: answer.token, keys, running, queued };
  };

  const node = await enrol(`stage-a-${randomUUID().slice(0, 8)}`);
  const other = await enrol(`stage-b-${randomUUID().slice(0, 8)}`);
  const keylessName = `stage-k-${randomUUID().slice(0, 8)}`;
  const keyless = await as(await joinToken()).call(nodes.registerKeyless, { body: { node_id: keylessName } });
  const ended = await submitTo(node.name, ['false']);
  await admin.call(commands.cancelCommand, { params: { id: ended.commandId }, body: {} });
  const artifact = await stageArtifacts(admin, node.name);
  const token = await admin.call(access.createToken, { body: { name: 'stage-spare', role: 'viewer' } });
  const spareJoin = parseJoinToken(await joinToken());
  const pending = await as(undefined).call(nodes.registerInit, {
    body: { host_id: `${keylessName}-x`, token_id: spareJoin.id, public_key: base64Of(generateKeyPair().publicRaw) },
  });
  const signer = await admin.call(access.addKey, { body: { ...newKey(), name: 'stage', usage: ['artifacts'] } });
  const { commandId: command_id, executionId: execution_id } = node.running;
  const renewal = { agent_uid: node.uid, timestamp: new Date(now).toISOString(), nonce: base64Of(randomBytes(32)) };
  const ending: Report = {
    command_id,
    execution_id,
    attempt: 1,
    state: 'failed',
    exit_code: 1,
    signal: null,
    started_at: new Date().toISOString(),
    finished_at: new Date().toISOString(),
    output: { stdout: { bytes: 30, sha256: '0'.repeat(64) }, stderr: { bytes: 0, sha256: null } },
    usage: { user_us: 1, system_us: 1, max_rss_kb: 1, duration_ms: 1 },
    tree_empty: true,
    error: { code: 'sample', message: 'a sample' },
  };
  const submission = {
    command_type: 'RunCommand',
    payload: { cmd: 'true', timeout_sec: 5, env: { A: 'b' } },
    targets: [node.name],
    priority: 'low',
    max_retries: 1,
    retry_backoff_sec: 1,
    delivery: 'at-least-once',
    scheduled_at: new Date(now + 3_600_000).toISOString(),
    ttl_sec: 60,
    output_limit_bytes: 1000,
    correlation_id: 'stage',
    dry_run: false,
  };

  const message = { channel: 'stage', message: { say: 'secret' }, message_type: 'event', ttl_sec: 600 } as const;
  const sent = await admin.call(messages.sendMessage, { params: { id: node.name }, body: message });
  await node.call(nodeMessages.pollMessages);

  const samples: Record<string, Sample> = {
    ...artifact,
    agentStatus: { params: { id: node.name } },
    sendMessage: { params: { id: node.uid }, body: { ...message, channel: 'other', timeout_sec: 1 } },
    broadcastMessage: { body: message },
    showMessage: { params: { id: node.name, message_id: sent.message_id } },
    pollMessages: { query: { wait: '0', except: 'other,third' } },
    answerMessage: { body: { message_id: sent.message_id, result: { reply: 'done', truncated: true } } },
    ...(await stageBackups(admin, node, other)),
    showTrust: {},
    walkTrust: { query: { from: '1' } },
    draftTrust: { body: { revoke: [signer.keyid], lifetime_sec: 86_400 } },
    publishTrust: { body: { trust_bundle: trust.trust_bundle } },
    listAudit: { query: { limit: '2', outcome: 'ok' } },
    listAuditHeads: { query: { limit: '2' } },
    listKeys: { query: { limit: '2' } },
    addKey: { body: { ...newKey(), name: 'sample', person: 'alice', usage: ['artifacts'] } },
    revokeKey: { params: { id: signer.keyid } },
    listTokens: { query: { limit: '2' } },
    createToken: { body: { name: 'sample', role: 'viewer', ttl_sec: 60 } },
    revokeToken: { params: { id: token.id } },
    listJoinTokens: { query: { limit: '2' } },
    createJoinToken: { body: { ttl_sec: 60, uses: 1, site: 'fra', labels: { env: 'test' } } },
    revokeJoinToken: { params: { id: spareJoin.id } },
    registerInit: {
      body: {
        token_id: spareJoin.id,
        host_id: `${keylessName}-y`,
        public_key: base64Of(generateKeyPair().publicRaw),
        sealing_key: base64Of(generateKeyPair('x25519').publicRaw),
        attrs: { os: 'linux', cores: 2 },
        capabilities: ['run'],
        site: 'fra',
        labels: { env: 'test' },
      },
    },
    registerComplete: {
      body: {
        registration_id: pending.registration_id,
        token_mac: base64Of(randomBytes(32)),
        signature: base64Of(randomBytes(64)),
      },
    },
    renewToken: {
      body: {
        ...renewal,
        signature: sign(null, tokenRequestTranscript(fleet, renewal), node.keys.privateKey).toString('base64'),
      },
    },
    listAgents: { query: { limit: '2', status: 'online' } },
    showAgent: { params: { id: node.name } },
    registerKeyless: { body: { node_id: `${keylessName}-z`, attrs: { os: 'linux' } } },
    apiListNodes: { query: { limit: '2', label: 'env=test' } },
    apiShowNode: { params: { id: node.uid } },
    apiPatchNode: { params: { id: node.uid }, body: { labels: { env: 'test' }, site: 'ber', maintenance: false } },
    deactivateNode: { params: { id: keylessName } },
    activateNode: { params: { id: keylessName } },
    apiRetireNode: { params: { id: keylessName } },
    showWishes: { params: { id: node.uid } },
    signWishes: { params: { id: node.uid }, body: { directives: [await signedWish(admin, fleet, node.uid, now)] } },
    nodeDesired: {},
    healthz: {},
    health: {},
    pollCommands: { query: { wait: '0' } },
    ackCommands: { body: { ids: [execution_id] } },
    pushLogs: {
      body: { command_id, execution_id, chunks: [{ stream: 'stdout', offset: 0, data: 'secret', encoding: 'utf8' }] },
    },
    pushStatus: {
      body: {
        reports: [
          {
            ...ending,
            report: signEnvelope(PAYLOAD_TYPES.report, ending, node.keys),
            chunks: [{ stream: 'stderr', offset: 0, data: '' }],
          },
        ],
      },
    },
    putOutput: { params: { id: execution_id, stream: 'stdout' }, query: { offset: '0' }, raw: Buffer.from('secret') },
    seedSubmit: { body: { ...submission, idempotency_key: randomUUID() } },
    submitCommand: { body: { ...submission, idempotency_key: randomUUID() } },
    listCommands: { query: { limit: '2', priority: 'normal' } },
    showCommand: { params: { id: command_id } },
    cancelCommand: { params: { id: node.queued.commandId }, body: { node: node.name } },
    retryCommand: { params: { id: ended.commandId }, body: {} },
    listExecutions: { params: { id: command_id }, query: { limit: '2' } },
    readLogs: { params: { id: command_id }, query: { stream: 'stdout', attempt: '1', offset: '0' } },
    readEvents: { query: { type: 'execution,node', node: node.name, from: '0', follow: 'false' } },
    statistics: {},
    openApi: {},
  };
  return {
    url,
    bearers: {
      viewer: await tokenOf('viewer'),
      operator: await tokenOf('operator'),
      admin: adminToken,
      node: node.token,
      other: other.token,
      keyless: keyless.token,
    },
    node,
    other,
    samples,
  };
};

/** A signed artifact that is assigned to the node, a spare one, and the samples of their endpoints. */
const stageArtifacts = async (admin: TestClient, node: string): Promise<Record<string, Sample>> => {
  const signer = await trustedSignatory(admin, 'stage-artifacts');
  const made = await bundle('stage', '1.0.0');
  const { artifact_id } = await publish(admin, made, signatureOf(made, signer));
  const spare = await bundle('stage', '0.9.0');
  const deletable = await publish(admin, spare, signatureOf(spare, signer));
  await admin.call(artifacts.assignArtifact, { params: { artifact_id, host_id: node }, body: {} });
  const constants = { target_ip: '192.0.2.9' };
  const report: StatusReport = {
    name: 'stage',
    version: '1.0.0',
    generation: 1,
    state: 'attached',
    at: new Date().toISOString(),
    attachments: [{ program: 'drop', hook: 'cgroup_skb egress in /', state: 'attached', link_id: 1, run_count: 2 }],
    maps: [{ name: 'counters', type: 'array', map_id: 1, max_entries: 1, entries: null }],
    drift: [{ at: new Date().toISOString(), what: 'link_missing', detail: 'a sample', repaired: true }],
    reason: { code: 'artifacts.attach_failed', message: 'a sample' },
    verifier_log: 'a sample',
    kernel: '6.18.44',
  };
  return {
    createArtifact: {
      body: {
        name: made.name,
        version: made.version,
        description: 'what stage is for',
        type: 'program',
        architecture: 'any',
        kernel_version: '5.15',
        metadata: { target_ip: '192.0.2.1' },
        tags: ['test'],
        data: base64Of(made.bytes),
        signature: signatureOf(made, signer),
      },
    },
    listArtifacts: { query: { limit: '2', name: 'stage' } },
    showArtifact: { params: { id: artifact_id } },
    artifactBinary: { params: { id: artifact_id } },
    deleteArtifact: { params: { id: deletable.artifact_id } },
    artifactsForHost: { params: { host_id: node } },
    assignArtifact: { params: { artifact_id, host_id: node }, body: { constants } },
    unassignArtifact: { params: { artifact_id, host_id: node } },
    putHosts: { params: { artifact_id }, body: { hosts: [node], constants } },
    assignMany: { body: { artifact: 'stage@1.0.0', targets: [node], constants, dry_run: true } },
    unassignMany: { body: { artifact: 'stage', targets: [node], dry_run: true } },
    postArtifactStatus: { params: { id: artifact_id }, body: report },
    artifactStatus: { params: { id: artifact_id }, query: { limit: '2' } },
    allArtifactStatus: { query: { limit: '2', name: 'stage', state: 'pending' } },
    putKernelReport: {
      body: {
        release: '6.18.44',
        architecture: 'x86_64',
        btf: true,
        bpffs: true,
        cgroup2: '/sys/fs/cgroup',
        jit: true,
        kinds: { kprobe: { works: false, reason: 'a sample', since: '4.1' } },
      },
    },
    showKernelReport: { params: { id: node } },
  };
};

const base64Of = (bytes: Buffer): string => bytes.toString('base64');
const newKey = (): { public_key: string } => {
  const key = generateMinisignKey();
  return { public_key: formatMinisignPublicKey({ ...key, raw: key.publicRaw }) };
};

/** The sample as a request. @throws RangeError for an endpoint that has none */
export const requestOf = ({ bearers, samples }: Staged, endpoint: Endpoint, change: Sample = {}): Asked => {
  const sample = samples[endpoint.id];
  if (!sample) throw new RangeError(`the endpoint '${endpoint.id}' has no sample: add one to test/fleet/samples.ts`);
  const { params, query, body, raw } = { ...sample, ...change };
  const search = new URLSearchParams(query).toString();
  const bearer =
    endpoint.caller === 'anyone'
      ? endpoint.id === 'registerKeyless'
        ? bearers.admin
        : null
      : bearers[endpoint.caller === 'viewer-or-node' ? 'viewer' : endpoint.caller];
  return {
    method: endpoint.method,
    path: `${pathOf(endpoint, params)}${search ? `?${search}` : ''}`,
    headers: {
      ...(bearer === null ? {} : { authorization: `Bearer ${bearer}` }),
      ...(raw
        ? { 'content-type': 'application/octet-stream' }
        : body === undefined
          ? {}
          : { 'content-type': 'application/json' }),
    },
    ...(raw ? { body: raw } : body === undefined ? {} : { body: JSON.stringify(body) }),
  };
};

/** One of the node's wishes, as an operator whose key was just added signs it. */
const signedWish = async (admin: TestClient, fleet: string, uid: string, now: number): Promise<Envelope> => {
  const operator = generateKeyPair();
  const body = { public_key: base64Of(operator.publicRaw), name: 'stage-operator', usage: ['operate' as const] };
  await admin.call(access.addKey, { body });
  const { wishes } = await admin.call(nodes.showWishes, { params: { id: uid } });
  const [wish] = wishes;
  if (!wish) throw new Error('the staged node has no desired state to sign');
  return signDirective(
    {
      fleet,
      id: randomUUID(),
      kind: 'artifacts.assign',
      targets: { selector: `uid=${uid}` },
      issued_at: new Date(now).toISOString(),
      expires_at: new Date(now + 86_400_000).toISOString(),
      max_attempts: 1,
      object_id: wish.object_id,
      generation: wish.generation,
      body: wish.body,
    },
    operator,
  );
};
