import { randomBytes, sign, timingSafeEqual, verify } from 'node:crypto';
import type { Envelope } from '@aegis/protocol/access/dsse';
import { type KeyPair, keyIdOf, publicKeyFromRaw } from '@aegis/protocol/access/keys';
import { AegisError } from '@aegis/protocol/errors';
import {
  enrolmentTranscript,
  joinTokenMac,
  type RegisterComplete,
  type RegisterCompleteAnswer,
  RegisterInit,
  type RegisterInitAnswer,
  type TokenRequest,
  tokenRequestTranscript,
} from '@aegis/protocol/nodes/enrolment';
import type { Labels } from '@aegis/protocol/nodes/node';
import * as z from 'zod/mini';
import { type Clock, isoTime } from '../platform/clock.ts';
import type { Tx } from '../tables.ts';
import { enrolledRow, factsOf, renewedFacts } from './enrolled-row.ts';
import type { RegistrationRow, RegistrationsRepository } from './registrations-repository.ts';
import type { NodesRepository } from './repository.ts';

/** What enrolment needs of the access domain. */
export interface JoinTokens {
  /** The secret that belongs to an id, whether or not such a token was ever made. base64url. */
  joinSecret(id: string): string;
  /** Counts a use. Null: unknown, expired, used up or revoked. */
  useJoinToken(tx: Tx, id: string): Promise<{ site: string | null; labels: Labels } | null>;
}
export interface TokenIssuer {
  issue(uid: string, issuedAtMs: number, ttlSec: number): { token: string; expiresAtMs: number };
}
export interface FleetIdentity {
  fleet: string;
  rootFingerprint: string;
  server: KeyPair;
  /** Raw public keys with which a server of this fleet may have begun an enrolment that is completed now. */
  servingKeys(): readonly Buffer[];
  trustBundle: Envelope;
}

const REGISTRATION_MS = 5 * 60_000;
const PENDING_AT_MOST = 10_000;
const PENDING_RETRY_SEC = 60;
/** What an honest node says of itself is a few KiB. */
const STORED_AT_MOST_BYTES = 64 * 1024;
const SKEW_MS = 5 * 60_000;

export interface EnrolmentParts {
  nodes: NodesRepository;
  registrations: RegistrationsRepository;
  joinTokens: JoinTokens;
  tokens: TokenIssuer;
  identity: FleetIdentity;
  clock: Clock;
  newId: () => string;
  tokenTtlSec: number;
  /** Enrolments under way from one address, and with one join token. */
  pendingEach: number;
  /** Told of each node that is new or changed. */
  changed: (uid: string) => void;
}

/** Enrolment: who proves a key and a join token over one transcript becomes a node. Pending ones are rows, so that a complete
 *  whose answer was lost is answered again after a crash, by whichever process. */
export const enrolmentService = (parts: EnrolmentParts) => {
  const { nodes, registrations, joinTokens, identity, clock } = parts;
  const transcriptOf = (
    by: 'node' | 'server',
    row: RegistrationRow,
    init: RegisterInit,
    serverKey: Buffer = identity.server.publicRaw,
  ): Buffer =>
    enrolmentTranscript(by, {
      fleet: identity.fleet,
      rootFingerprint: identity.rootFingerprint,
      serverKey,
      challenge: row.challenge,
      registrationId: row.id,
      init,
    });
  const tokenFor = (uid: string, issuedAtMs: number): RegisterCompleteAnswer => {
    const { token, expiresAtMs } = parts.tokens.issue(uid, issuedAtMs, parts.tokenTtlSec);
    return { agent_uid: uid, token, expires_at: isoTime(expiresAtMs) };
  };

  /** In the transaction: the row is locked, its proofs are good. */
  const completeIn = async (tx: Tx, id: string, init: RegisterInit): Promise<{ uid: string; at: number }> => {
    const row = await registrations.byIdIn(tx, id);
    if (!row) throw unknownRegistration();
    if (row.completed_at !== null && row.node_uid !== null) {
      const node = await nodes.byUidIn(tx, row.node_uid);
      if (node?.state === 'retired') throw retired(node.name);
      return { uid: row.node_uid, at: row.completed_at };
    }
    const now = clock.now();
    if (row.expires_at <= now)
      throw new AegisError('nodes.registration_expired', 'This registration has expired. Begin anew with /init.');
    const granted = init.token_id === undefined ? null : await joinTokens.useJoinToken(tx, init.token_id);
    if (init.token_id !== undefined && !granted) throw badJoinToken();
    const uid = await enrol(tx, init, granted, now);
    await registrations.complete(tx, id, uid, now);
    return { uid, at: now };
  };

  const enrol = async (
    tx: Tx,
    init: RegisterInit,
    granted: { site: string | null; labels: Labels } | null,
    now: number,
  ): Promise<string> => {
    const known = await nodes.byKeyIn(tx, keyIdOf(Buffer.from(init.public_key, 'base64')));
    if (known?.state === 'retired') throw retired(known.name);
    if (known && known.name !== init.host_id)
      throw new AegisError(
        'nodes.already_enrolled',
        `This node's key is enrolled as '${known.name}' already. Keep that name, or give the node a new identity.`,
      );
    if (known) {
      await nodes.update(tx, known.uid, { ...factsOf(init, granted, known), updated_at: now });
      return known.uid;
    }
    const row = enrolledRow(parts.newId(), init, granted, now);
    if (!(await nodes.insert(tx, row))) throw nameTaken(init.host_id);
    return row.uid;
  };

  return {
    /** @param caller.tokenless it came under the --dev rule */
    init: async (
      init: RegisterInit,
      { tokenless, remoteAddress }: { tokenless: boolean; remoteAddress: string },
    ): Promise<RegisterInitAnswer> => {
      if (init.token_id === undefined && !tokenless) throw badJoinToken();
      const text = JSON.stringify(init);
      if (Buffer.byteLength(text) > STORED_AT_MOST_BYTES)
        throw new AegisError('http.too_large', 'An enrolment takes 64 KiB at most. Send fewer or shorter attrs.');
      const now = clock.now();
      const row: RegistrationRow = {
        id: parts.newId(),
        challenge: randomBytes(32),
        init: text,
        tokenless: tokenless ? 1 : 0,
        created_at: now,
        expires_at: now + REGISTRATION_MS,
        completed_at: null,
        node_uid: null,
        remote_address: remoteAddress,
        token_id: init.token_id ?? null,
      };
      const added = await registrations.add(row, { all: PENDING_AT_MOST, each: parts.pendingEach });
      if (added !== 'added') throw tooManyPending(added);
      return {
        registration_id: row.id,
        challenge: row.challenge.toString('base64'),
        expires_at: isoTime(row.expires_at),
        trust_bundle: identity.trustBundle,
        server_key: identity.server.publicRaw.toString('base64'),
        signature: sign(null, transcriptOf('server', row, init), identity.server.privateKey).toString('base64'),
      };
    },

    /** The same proof again gets the same answer. Nothing tells an unknown join token from a wrong proof of a known one. */
    complete: async (proof: RegisterComplete): Promise<RegisterCompleteAnswer> => {
      const row = await registrations.byId(proof.registration_id);
      if (!row) throw unknownRegistration();
      const init = z.parse(RegisterInit, JSON.parse(row.init));
      const transcript = identity
        .servingKeys()
        .map((serverKey) => transcriptOf('node', row, init, serverKey))
        .find((one) => signedBy(init.public_key, one, proof.signature));
      if (!transcript)
        throw new AegisError('nodes.bad_proof', "The signature is not by this node's key over this registration.");
      if (!provesJoinToken(joinTokens, init, row.tokenless === 1, transcript, proof.token_mac)) throw badJoinToken();
      const { uid, at } = await nodes.write('nodes.register-complete', (tx) => completeIn(tx, row.id, init));
      parts.changed(uid);
      return tokenFor(uid, at);
    },

    renew: async (request: TokenRequest): Promise<RegisterCompleteAnswer> => {
      const node = await nodes.byUid(request.agent_uid);
      const good =
        node?.public_key &&
        signedBy(
          node.public_key.toString('base64'),
          tokenRequestTranscript(identity.fleet, request),
          request.signature,
        );
      if (!good) throw new AegisError('nodes.bad_proof', 'This is not signed by the key of a node of this fleet.');
      if (node.state === 'retired') throw retired(node.name);
      const now = clock.now();
      const at = Date.parse(request.timestamp);
      if (!(Math.abs(at - now) <= SKEW_MS))
        throw new AegisError(
          'nodes.clock_skew',
          `The node's clock and the server's differ by more than 5 minutes (here it is ${isoTime(now)}). Set the clock.`,
          { details: { server_time: isoTime(now) } },
        );
      if (!(await registrations.useNonce(node.uid, request.nonce, at + 2 * SKEW_MS)))
        throw new AegisError('nodes.bad_proof', 'This nonce was used already. Make a new one for each request.');
      const facts = renewedFacts(request);
      if (Object.keys(facts).length > 0) {
        await nodes.write('nodes.renew-facts', (tx) => nodes.update(tx, node.uid, { ...facts, updated_at: now }));
        parts.changed(node.uid);
      }
      return tokenFor(node.uid, now);
    },
  };
};
export type EnrolmentService = ReturnType<typeof enrolmentService>;

const signedBy = (publicKey: string, transcript: Buffer, signature: string): boolean =>
  verify(null, transcript, publicKeyFromRaw(Buffer.from(publicKey, 'base64')), Buffer.from(signature, 'base64'));

const provesJoinToken = (
  joinTokens: JoinTokens,
  init: RegisterInit,
  tokenless: boolean,
  transcript: Buffer,
  mac: string | undefined,
): boolean => {
  if (init.token_id === undefined) return tokenless;
  const given = Buffer.from(mac ?? '', 'base64');
  const expected = joinTokenMac(joinTokens.joinSecret(init.token_id), transcript);
  return given.length === expected.length && timingSafeEqual(given, expected);
};

const tooManyPending = (which: 'too many' | 'too many of its own') =>
  which === 'too many'
    ? new AegisError('http.unavailable', 'Too many enrolments are under way. Try again in a minute.', {
        retryAfterSec: PENDING_RETRY_SEC,
      })
    : new AegisError(
        'http.rate_limited',
        'Too many enrolments from this address, or with this join token, are under way. Try again in a minute.',
        { retryAfterSec: PENDING_RETRY_SEC },
      );
export const badJoinToken = () =>
  new AegisError(
    'nodes.bad_join_token',
    "The join token is missing, unknown, expired, used up or revoked, or its proof is wrong. Make one with 'aegis server join-token'.",
  );
export const nameTaken = (name: string) =>
  new AegisError(
    'nodes.name_taken',
    `The name '${name}' belongs to another node. Choose another (--name), or retire that node first.`,
  );
const retired = (name: string) =>
  new AegisError('nodes.retired', `The node '${name}' was retired and its key with it. Enrol with a new identity.`);
const unknownRegistration = () =>
  new AegisError('nodes.unknown_registration', 'There is no such registration. Begin anew with /init.');
