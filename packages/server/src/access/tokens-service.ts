import { createHash, createHmac, randomBytes, timingSafeEqual } from 'node:crypto';
import type { JoinTokenInfo, OperatorToken } from '@aegis/protocol/access/endpoints';
import { formatJoinToken } from '@aegis/protocol/access/join-token';
import { ROLES, type Role } from '@aegis/protocol/access/roles';
import { parseScope } from '@aegis/protocol/access/scope';
import { AegisError } from '@aegis/protocol/errors';
import type { Labels } from '@aegis/protocol/nodes/node';
import * as z from 'zod/mini';
import { type Clock, isoTime, isoTimeOrNull } from '../platform/clock.ts';
import type { TokenActor } from '../platform/http/actor.ts';
import { decodeCursor, encodeCursor } from '../platform/paging.ts';
import type { Tx } from '../tables.ts';
import type { AccessRepository, JoinTokenRow, PageOf, TokenRow } from './repository.ts';
import { badToken, type OperatorJwts } from './tokens-jwt.ts';

/** Tokens from before they were JWTs; good until they end. */
const OPAQUE = /^aegis_([0-9a-f]{16})_([A-Za-z0-9_-]{43})$/;
/** Every token ends: a gateway in front knows no other way. */
const DEFAULT_TTL_SEC = 365 * 86_400;
const Cursor = z.tuple([z.number(), z.string()]);

export interface Paging {
  limit: number;
  cursor?: string | undefined;
}

/** Operator tokens and join tokens: made, listed, revoked, judged. */
export const tokensService = (parts: {
  repository: AccessRepository;
  jwts: OperatorJwts;
  /** Told after each revocation. */
  revoked?: (id: string) => void;
  clock: Clock;
  rootFingerprint: string;
  /** base64url. */
  joinMaster: string;
  /** Of the certificate that join tokens name when their maker names none. */
  tlsFingerprint: () => string | undefined;
}) => {
  const { repository, clock } = parts;
  const joinMaster = Buffer.from(parts.joinMaster, 'base64url');
  /** Derived, never stored: whoever knows an id but not the master key learns nothing. */
  const joinSecret = (id: string): string => createHmac('sha256', joinMaster).update(id).digest('base64url');

  return {
    createToken: async (wanted: {
      name: string;
      role: Role;
      ttlSec?: number | undefined;
      /** Null: the whole fleet. */
      scope?: string | null | undefined;
    }) => {
      if (typeof wanted.scope === 'string') parseScope(wanted.scope);
      const now = clock.now();
      const facts = { id: randomBytes(8).toString('hex'), name: wanted.name, role: wanted.role };
      const scope = wanted.scope ?? null;
      const expiresAtMs = now + (wanted.ttlSec ?? DEFAULT_TTL_SEC) * 1000;
      const random = randomBytes(16).toString('base64url');
      const token = parts.jwts.issue({ ...facts, scope, createdAtMs: now, expiresAtMs, random });
      const row: TokenRow = {
        ...facts,
        scope,
        secret_sha256: sha256(token),
        created_at: now,
        expires_at: expiresAtMs,
        revoked_at: null,
      };
      await repository.addToken(row);
      return { ...tokenShown(row), token };
    },
    listTokens: async (paging: Paging) => {
      const rows = await repository.tokens(pageOf(paging));
      return { items: rows.map(tokenShown), next_cursor: nextCursor(rows, paging.limit) };
    },
    revokeToken: async (id: string): Promise<OperatorToken> => {
      const row = await repository.revokeToken(id, clock.now());
      if (!row) throw unknownToken(id);
      parts.revoked?.(id);
      return tokenShown(row);
    },
    /** Unknown, expired and revoked tokens and wrong secrets are one and the same to the caller.
     *  @throws AegisError access.unauthenticated */
    actorOf: async (text: string): Promise<TokenActor> => {
      const [, id = parts.jwts.verify(text), secret = text] = OPAQUE.exec(text) ?? [];
      const row = await repository.token(id);
      const same = timingSafeEqual(sha256(secret), row?.secret_sha256 ?? NOBODY);
      const role = ROLES.find((one) => one === row?.role);
      const good = row && role && row.revoked_at === null && (row.expires_at ?? Infinity) > clock.now();
      if (!same || !good) throw badToken();
      return { kind: 'token', id: row.id, name: row.name, role, scope: row.scope };
    },

    createJoinToken: async (wanted: {
      ttlSec: number;
      uses: number;
      site?: string | undefined;
      labels?: Labels | undefined;
      tlsFingerprint?: string | undefined;
    }) => {
      const now = clock.now();
      const row: JoinTokenRow = {
        id: randomBytes(8).toString('hex'),
        uses: wanted.uses,
        used: 0,
        site: wanted.site ?? null,
        labels: JSON.stringify(wanted.labels ?? {}),
        created_at: now,
        expires_at: now + wanted.ttlSec * 1000,
        revoked_at: null,
      };
      await repository.addJoinToken(row);
      const tlsFingerprint = wanted.tlsFingerprint ?? parts.tlsFingerprint();
      const join_token = formatJoinToken({
        id: row.id,
        secret: joinSecret(row.id),
        rootFingerprint: parts.rootFingerprint,
        ...(tlsFingerprint ? { tlsFingerprint } : {}),
      });
      return { ...joinTokenShown(row), join_token };
    },
    listJoinTokens: async (paging: Paging) => {
      const rows = await repository.joinTokens(pageOf(paging));
      return { items: rows.map(joinTokenShown), next_cursor: nextCursor(rows, paging.limit) };
    },
    revokeJoinToken: async (id: string): Promise<JoinTokenInfo> => {
      const row = await repository.revokeJoinToken(id, clock.now());
      if (!row) throw unknownToken(id);
      return joinTokenShown(row);
    },
    joinSecret,
    /** Counts a use in the caller's transaction. Null: unknown, used up, expired or revoked, the caller shall not tell which. */
    useJoinToken: async (tx: Tx, id: string): Promise<{ site: string | null; labels: Labels } | null> => {
      const row = await repository.useJoinToken(tx, id, clock.now());
      return row ? { site: row.site, labels: JSON.parse(row.labels) as Labels } : null;
    },
  };
};
export type TokensService = ReturnType<typeof tokensService>;

const NOBODY = Buffer.alloc(32);
const sha256 = (text: string): Buffer => createHash('sha256').update(text).digest();
const unknownToken = (id: string) =>
  new AegisError('access.unknown_token', `There is no token '${id.slice(0, 64)}'. List them to see their ids.`);

const pageOf = ({ limit, cursor }: Paging): PageOf =>
  cursor === undefined ? { limit } : { limit, after: decodeCursor(cursor, Cursor) };
const nextCursor = (rows: readonly { created_at: number; id: string }[], limit: number): string | null => {
  const last = rows.length === limit ? rows.at(-1) : undefined;
  return last ? encodeCursor([last.created_at, last.id]) : null;
};

const tokenShown = (row: TokenRow): OperatorToken => ({
  id: row.id,
  name: row.name,
  role: ROLES.find((role) => role === row.role) ?? 'viewer',
  created_at: isoTime(row.created_at),
  expires_at: isoTimeOrNull(row.expires_at),
  revoked_at: isoTimeOrNull(row.revoked_at),
  scope: row.scope,
});
const joinTokenShown = (row: JoinTokenRow): JoinTokenInfo => ({
  id: row.id,
  uses: row.uses,
  used: row.used,
  site: row.site,
  labels: JSON.parse(row.labels) as Labels,
  created_at: isoTime(row.created_at),
  expires_at: isoTime(row.expires_at),
  revoked_at: isoTimeOrNull(row.revoked_at),
});
