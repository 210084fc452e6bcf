import type { AuditTables } from './audit/tables.ts';

/** Rows of the access domain. Times are milliseconds since 1970. */
export interface AccessTables extends AuditTables {
  /** One row: whose database this is. */
  access_fleet: {
    fleet: string;
    root_fingerprint: string;
  };
  access_tokens: {
    id: string;
    name: string;
    role: string;
    /** SHA-256 of the token's text, which holds 128 random bits or more and needs no slow hash; of one from before tokens were JWTs,
     *  of its secret part. */
    secret_sha256: Buffer;
    created_at: number;
    expires_at: number | null;
    revoked_at: number | null;
    /** A selector (protocol/access/scope); null: the whole fleet. */
    scope: string | null;
  };
  access_join_tokens: {
    id: string;
    uses: number;
    used: number;
    site: string | null;
    /** JSON object. */
    labels: string;
    created_at: number;
    expires_at: number;
    revoked_at: number | null;
  };
}
