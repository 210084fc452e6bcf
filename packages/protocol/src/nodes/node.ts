import * as z from 'zod/mini';

/** nodes: what a managed machine is called, what it says of itself and how it is seen.
 *  Shared by server, daemon and CLI; the uid is the server's and never reused. */

/** A node's name, unique in the fleet: often a host name, in the seeds also an IP address. */
export const NodeName = z
  .string()
  .check(z.regex(/^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$/, 'a node name has 1–128 of A-Z a-z 0-9 . _ : -'));

const LABEL_KEY = /^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$/;
const LABEL_VALUE = /^[A-Za-z0-9._:/@+-]{0,128}$/;
export const Labels = z
  .record(z.string().check(z.regex(LABEL_KEY)), z.string().check(z.regex(LABEL_VALUE)))
  .check(z.refine((labels) => Object.keys(labels).length <= 64, 'at most 64 labels'));
export type Labels = z.infer<typeof Labels>;
export const Site = z.string().check(z.regex(/^[A-Za-z0-9._-]{1,64}$/));

/** Facts that a node reports: free text for people, plus the ones that selectors know. Bounded to 64 entries of 1 KiB. */
export const Attrs = z
  .record(
    z.string().check(z.minLength(1), z.maxLength(64)),
    z.union([z.string().check(z.maxLength(1024)), z.number(), z.boolean(), z.null()]),
  )
  .check(z.refine((attrs) => Object.keys(attrs).length <= 64, 'at most 64 attributes'));
export type Attrs = z.infer<typeof Attrs>;
export const Capabilities = z.array(z.string().check(z.regex(/^[a-z0-9][a-z0-9._-]{0,63}$/))).check(z.maxLength(64));

export const NodeState = z.enum(['pending', 'active', 'retired']);
export type NodeState = z.infer<typeof NodeState>;
/** Derived from the last sign of life; `maintenance` is set by people and shown in its place. */
export const NodeStatus = z.enum(['online', 'degraded', 'offline', 'error', 'maintenance']);
export type NodeStatus = z.infer<typeof NodeStatus>;

export const Node = z.object({
  uid: z.uuid(),
  agent_id: z.string(),
  name: z.string(),
  state: NodeState,
  status: NodeStatus,
  maintenance: z.boolean(),
  /** Its credentials are refused until it is activated again. */
  deactivated: z.optional(z.boolean()),
  keyless: z.boolean(),
  key_id: z.nullable(z.string()),
  /** Of the key that signs its reports and backups: 32 raw bytes, base64; `key_id` is their SHA-256. Operators pin it (`aegis nodes trust`). */
  public_key: z.optional(z.nullable(z.string())),
  /** What is sealed to it only the node can open: an X25519 key, 32 raw bytes, base64. */
  sealing_key: z.optional(z.nullable(z.string())),
  site: z.nullable(z.string()),
  labels: Labels,
  attrs: Attrs,
  capabilities: z.array(z.string()),
  version: z.nullable(z.string()),
  os: z.nullable(z.string()),
  kernel: z.nullable(z.string()),
  container_engine: z.nullable(z.string()),
  last_seen: z.nullable(z.string()),
  created_at: z.string(),
  updated_at: z.string(),
});
export type Node = z.infer<typeof Node>;
