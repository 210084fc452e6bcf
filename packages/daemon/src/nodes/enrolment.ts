import { randomUUID, sign, verify } from 'node:crypto';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { Envelope } from '@aegis/protocol/access/dsse';
import { showTrust } from '@aegis/protocol/access/endpoints';
import { type JoinToken, parseJoinToken } from '@aegis/protocol/access/join-token';
import { keyIdOf, publicKeyFromRaw } from '@aegis/protocol/access/keys';
import { keysFor, openTrustBundle } from '@aegis/protocol/access/trust-bundle';
import { AegisError } from '@aegis/protocol/errors';
import { registerComplete, registerInit } from '@aegis/protocol/nodes/endpoints';
import {
  type EnrolmentFacts,
  enrolmentTranscript,
  joinTokenMac,
  RegisterComplete,
  RegisterInit,
  type RegisterInitAnswer,
} from '@aegis/protocol/nodes/enrolment';
import { NodeName } from '@aegis/protocol/nodes/node';
import * as z from 'zod/mini';
import type { Clock } from '../platform/clock.ts';
import type { HttpClient } from '../platform/http/client.ts';
import type { Logger } from '../platform/log.ts';
import { ensurePrivateFolder, removePrivateFile, writePrivateFile } from '../platform/private-files.ts';
import { gatherFacts } from './facts.ts';
import { ensureNodeKeys, type Identity, type NodeKeys, readIdentity, readRecord, writeIdentity } from './identity.ts';
import { toldOf, writeToken } from './token.ts';

/** Enrolment in two calls. The server is checked against the pinned root before this node proves anything; each step is on disk
 *  before the next, so that a crash anywhere, or a lost answer, is repaired by running the same again. */

/** What was checked and signed, kept until the server's answer to `complete` is on disk. */
const Pending = z.object({
  server: z.string(),
  fleet: z.string(),
  root_fingerprint: z.string(),
  trust_bundle: Envelope,
  name: z.string(),
  complete: RegisterComplete,
  tls: z.optional(z.object({ certificate: z.string(), fingerprint: z.string() })),
  told: z.optional(z.string()),
});
type Pending = z.infer<typeof Pending>;

export interface EnrolmentOptions {
  dataDir: string;
  /** Origin. */
  server: string;
  joinToken?: string | undefined;
  name?: string | undefined;
  site?: string | undefined;
  labels?: Record<string, string> | undefined;
  /** First contact without a join token: trusts whoever answers. */
  insecureDev: boolean;
  /** A client for this server, given the pinned certificate when the join token names one. */
  clientFor(tls: Identity['tls']): HttpClient;
  pinnedCertificate(fingerprint: string): Promise<string>;
  /** Who is of the fleet that this node belongs to already. */
  trust: {
    isRoot(identity: Identity, fingerprint: string, connect: () => Promise<HttpClient>): Promise<boolean>;
    isOurs(identity: Identity, shown: Envelope, client: HttpClient): Promise<boolean>;
  };
  clock: Clock;
  log: Logger;
}

/** The identity of this data directory; enrols first when there is none.
 *  @throws AegisError nodes.already_enrolled, nodes.not_enrolled, nodes.bad_join_token, access.untrusted, or the server's refusal */
export const ensureEnrolled = async (options: EnrolmentOptions): Promise<{ identity: Identity; keys: NodeKeys }> => {
  const { dataDir } = options;
  ensurePrivateFolder(dataDir);
  const joinToken = options.joinToken === undefined ? undefined : parseJoinToken(options.joinToken);
  const identity = readIdentity(dataDir);
  if (identity) {
    await refuseOtherHome(identity, options, joinToken);
    const keys = ensureNodeKeys(dataDir);
    return {
      identity: identity.server === options.server ? identity : await moved(identity, options, joinToken),
      keys,
    };
  }
  if (!joinToken && !options.insecureDev)
    throw new AegisError(
      'nodes.not_enrolled',
      `${dataDir} belongs to no fleet yet: give --join-token (an operator makes one with 'aegis server join-token').`,
    );
  const keys = ensureNodeKeys(dataDir);
  const resumed = await resumePending(options, joinToken);
  return { identity: resumed ?? (await enrolAnew(options, joinToken, keys)), keys };
};

const refuseOtherHome = async (
  identity: Identity,
  options: EnrolmentOptions,
  token: JoinToken | undefined,
): Promise<void> => {
  const { dataDir, name, trust } = options;
  const connect = async () => options.clientFor(await tlsFor(identity, options, token));
  const differs =
    token && !(await trust.isRoot(identity, token.rootFingerprint, connect))
      ? `fleet '${identity.fleet}' with another trust root`
      : name !== undefined && name !== identity.name
        ? `the fleet as '${identity.name}'`
        : null;
  if (differs) throw alreadyOf(dataDir, differs);
};

const alreadyOf = (dataDir: string, whose: string, cause?: unknown): AegisError =>
  new AegisError(
    'nodes.already_enrolled',
    `${dataDir} already belongs to ${whose}: use another --data-dir for this one.`,
    { cause },
  );

const tlsFor = async (
  identity: Identity,
  options: EnrolmentOptions,
  token: JoinToken | undefined,
): Promise<Identity['tls']> => {
  const pin = token?.tlsFingerprint;
  if (pin) return { certificate: await options.pinnedCertificate(pin), fingerprint: pin };
  return token ? undefined : identity.tls;
};

/** The same fleet at another address: kept once the server there has shown a bundle of the pinned root. Nothing but that question
 *  has been sent by then. A join token also says by which certificate to know the server from now on. */
const moved = async (
  identity: Identity,
  options: EnrolmentOptions,
  token: JoinToken | undefined,
): Promise<Identity> => {
  const { dataDir, server, log } = options;
  const tls = await tlsFor(identity, options, token);
  const whose = `server ${identity.server}, and ${server} does not show fleet '${identity.fleet}' with its trust root`;
  const client = options.clientFor(tls);
  try {
    const { trust_bundle } = await client.call(showTrust, { authorised: false });
    if (!(await options.trust.isOurs(identity, trust_bundle, client))) throw alreadyOf(dataDir, whose);
  } catch (error) {
    if (!(error instanceof AegisError)) throw error; // not reached: says nothing about who is there
    throw alreadyOf(dataDir, whose, error);
  }
  const { tls: _, ...rest } = identity;
  const now: Identity = { ...rest, server, ...(tls ? { tls } : {}) };
  writeIdentity(dataDir, now);
  log.info({ from: identity.server, to: server }, 'this node follows its server to a new address');
  return now;
};

const enrolAnew = async (
  options: EnrolmentOptions,
  token: JoinToken | undefined,
  keys: NodeKeys,
): Promise<Identity> => {
  const { dataDir, server, insecureDev, log, clock } = options;
  if (!token && insecureDev)
    log.warn(
      { server },
      'INSECURE: enrolling without a join token. Whoever answers at this address becomes the master of this machine.',
    );
  const tls = token?.tlsFingerprint
    ? { certificate: await options.pinnedCertificate(token.tlsFingerprint), fingerprint: token.tlsFingerprint }
    : undefined;
  const client = options.clientFor(tls);
  const init = initOf(options, token, keys);
  const answer = await client.call(registerInit, { body: init, authorised: false });
  const checked = checkServer(init, answer, token?.rootFingerprint ?? null, clock.now());

  const transcript = enrolmentTranscript('node', checked);
  const pending: Pending = {
    server,
    fleet: checked.fleet,
    root_fingerprint: checked.rootFingerprint,
    trust_bundle: answer.trust_bundle,
    name: init.host_id,
    complete: {
      registration_id: answer.registration_id,
      signature: sign(null, transcript, keys.signing.privateKey).toString('base64'),
      ...(token ? { token_mac: joinTokenMac(token.secret, transcript).toString('base64') } : {}),
    },
    ...(tls ? { tls } : {}),
    told: toldOf({ attrs: init.attrs, capabilities: init.capabilities }),
  };
  writePrivateFile(pendingFile(dataDir), `${JSON.stringify(pending)}\n`);
  return complete(options, pending, client);
};

/** A `complete` whose answer was lost is sent again, byte for byte; the server answers as it did the first time. */
const resumePending = async (options: EnrolmentOptions, token: JoinToken | undefined): Promise<Identity | null> => {
  const pending = readRecord(pendingFile(options.dataDir), Pending, 'remove it and enrol again');
  if (!pending || pending.server !== options.server) return null;
  if (token && token.rootFingerprint !== pending.root_fingerprint) return null;
  if (options.name !== undefined && options.name !== pending.name) return null;
  try {
    return await complete(options, pending, options.clientFor(pending.tls));
  } catch (error) {
    const over = [
      'nodes.registration_expired',
      'nodes.unknown_registration',
      'nodes.bad_proof',
      'nodes.bad_join_token',
    ];
    if (!(error instanceof AegisError) || !over.includes(error.code)) throw error;
    removePrivateFile(pendingFile(options.dataDir));
    return null;
  }
};

const complete = async (
  { dataDir, server }: EnrolmentOptions,
  pending: Pending,
  client: HttpClient,
): Promise<Identity> => {
  const answer = await client.call(registerComplete, { body: pending.complete, authorised: false });
  const identity: Identity = {
    uid: answer.agent_uid,
    name: pending.name,
    fleet: pending.fleet,
    server,
    root_fingerprint: pending.root_fingerprint,
    trust_bundle: pending.trust_bundle,
    ...(pending.tls ? { tls: pending.tls } : {}),
  };
  writeToken(dataDir, { ...answer, told: pending.told });
  writeIdentity(dataDir, identity);
  removePrivateFile(pendingFile(dataDir));
  return identity;
};

const pendingFile = (dataDir: string): string => join(dataDir, 'enrolment.json');

const initOf = (
  { name, site, labels }: EnrolmentOptions,
  token: JoinToken | undefined,
  keys: NodeKeys,
): RegisterInit => {
  const { attrs, capabilities } = gatherFacts();
  const hostId = z.safeParse(NodeName, name ?? hostname());
  const init = z.safeParse(RegisterInit, {
    ...(token ? { token_id: token.id } : {}),
    host_id: hostId.success ? hostId.data : `node-${randomUUID().slice(0, 8)}`,
    public_key: keys.signing.publicRaw.toString('base64'),
    sealing_key: keys.sealing.publicRaw.toString('base64'),
    attrs,
    capabilities,
    ...(site === undefined ? {} : { site }),
    ...(labels === undefined ? {} : { labels }),
  });
  if (name !== undefined && !hostId.success)
    throw new AegisError('config.invalid', `name: '${name}' cannot name a node: use 1 to 128 of A-Z a-z 0-9 . _ : -`);
  if (!init.success)
    throw new AegisError('config.invalid', `site or labels are not valid: ${init.error.issues[0]?.path.join('.')}.`);
  return init.data;
};

/** Root → bundle → server key → signature over everything said so far. Nothing secret has been used when this throws.
 *  @throws AegisError access.untrusted */
export const checkServer = (
  init: RegisterInit,
  answer: RegisterInitAnswer,
  rootFingerprint: string | null,
  nowMs: number,
): EnrolmentFacts => {
  const opened = openTrustBundle(answer.trust_bundle, rootFingerprint, nowMs);
  const serverKey = Buffer.from(answer.server_key, 'base64');
  if (!keysFor(opened.bundle, 'serve').has(keyIdOf(serverKey)))
    throw new AegisError(
      'access.untrusted',
      'The server showed a key that its own trust bundle does not list for serving: find out who answers there.',
    );
  const facts: EnrolmentFacts = {
    fleet: opened.bundle.fleet,
    rootFingerprint: opened.rootFingerprint,
    serverKey,
    challenge: Buffer.from(answer.challenge, 'base64'),
    registrationId: answer.registration_id,
    init,
  };
  const good = verify(
    null,
    enrolmentTranscript('server', facts),
    publicKeyFromRaw(serverKey),
    Buffer.from(answer.signature, 'base64'),
  );
  if (!good)
    throw new AegisError(
      'access.untrusted',
      "The server's signature over this enrolment is wrong: something between here and there changed it.",
    );
  return facts;
};
