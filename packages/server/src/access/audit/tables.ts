/** Rows of the audit chain. Each is hashed together with the hash before it (protocol: access/audit.ts). */
export interface AuditTables {
  access_audit: {
    seq: number;
    at: number;
    request_id: string;
    actor_kind: string;
    actor_id: string | null;
    actor_name: string | null;
    key_id: string | null;
    action: string;
    /** JSON lists of text. */
    targets: string;
    summary: string;
    address: string | null;
    outcome: string;
    code: string | null;
    count: number;
    hash: string;
  };
  /** One row: the newest entry. Whoever appends holds it locked. */
  access_audit_head: { id: number; seq: number; hash: string };
  /** DSSE envelopes as JSON. */
  access_audit_signed: { seq: number; kind: 'head' | 'cut'; envelope: string };
}
