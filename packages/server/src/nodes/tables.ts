/** Rows of the nodes domain. Times are milliseconds since 1970, booleans 0 and 1, keys their 32 raw bytes. */
export interface NodesTables {
  nodes: {
    uid: string;
    /** Unique among nodes that are not retired. */
    name: string;
    state: string;
    maintenance: number;
    keyless: number;
    key_id: string | null;
    public_key: Buffer | null;
    sealing_key: Buffer | null;
    site: string | null;
    /** JSON object, JSON object, JSON array. */
    labels: string;
    attrs: string;
    capabilities: string;
    version: string | null;
    os: string | null;
    kernel: string | null;
    container_engine: string | null;
    last_seen: number | null;
    created_at: number;
    updated_at: number;
    /** From then on its credentials are refused. */
    deactivated_at: number | null;
    /** What an agent says of itself: `error`, `offline`. */
    said_status: string | null;
  };
  /** Of seed 004's keyless agents. */
  nodes_api_keys: {
    /** Hexadecimal. */
    key_sha256: string;
    node_uid: string;
    created_at: number;
    created_by: string;
  };
  nodes_registrations: {
    id: string;
    challenge: Buffer;
    /** The RegisterInit as validated, JSON: the transcript is rebuilt from it. */
    init: string;
    /** 1 when it began under the --dev rule and needs no join token. */
    tokenless: number;
    created_at: number;
    expires_at: number;
    /** Set by the first good completion; a repeat answers from these. */
    completed_at: number | null;
    node_uid: string | null;
    /** Null in rows from before these were kept. */
    remote_address: string | null;
    token_id: string | null;
  };
  /** Operators' own directives of desired state: the newest of each wish. */
  nodes_operator_wishes: {
    node_uid: string;
    kind: string;
    object_id: string;
    generation: number;
    /** JSON Envelope. */
    envelope: string;
    signed_at: number;
  };
  nodes_token_nonces: {
    node_uid: string;
    nonce: string;
    expires_at: number;
  };
}
