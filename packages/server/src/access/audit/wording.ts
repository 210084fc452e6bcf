import type { Actor } from '../../platform/http/actor.ts';

/** From a request to what the audit says of it. Only fields that are named here are repeated, so that a payload, a script or a
 *  secret never gets in, whatever a later endpoint is called with. */

const MAX_TARGETS = 32;
const MAX_ITEMS = 16;
const MAX_SIGNERS = 4;
const MAX_CHARS = 128;

/** Fields of bodies that name what is acted on. */
const TARGET_FIELDS = [
  'targets',
  'agent_targets',
  'hosts',
  'nodes',
  'node',
  'node_id',
  'host_id',
  'token_id',
  'registration_id',
  'artifact',
] as const;
/** Fields of bodies that say what is wanted. */
const SUMMARY_FIELDS = [
  'name',
  'version',
  'type',
  'command_type',
  'verb',
  'role',
  'scope',
  'usage',
  'person',
  'ttl_sec',
  'uses',
  'site',
  'maintenance',
  'priority',
  'delivery',
  'max_retries',
  'scheduled_at',
  'correlation_id',
  'dry_run',
  'enabled',
  'schedule',
  'channel',
  'message_type',
] as const;
/** Fields of bodies that hold what somebody signed, a list of envelopes or one. */
const SIGNED_FIELDS = ['directive', 'directives', 'trust_bundle'] as const;
/** Fields of answers that name what was made. */
const RESULT_FIELDS = [
  'id',
  'message_id',
  'command_id',
  'run_id',
  'artifact_id',
  'keyid',
  'head',
  'agent_uid',
  'uid',
] as const;

/** Text that both databases store and every reader reads alike. */
export const bounded = (text: string, most = MAX_CHARS): string => {
  const short = text.length > most ? `${text.slice(0, most)}…` : text;
  return short.toWellFormed().replaceAll(/\p{Cc}/gu, '\u{fffd}');
};

const fieldsOf = (value: unknown): Readonly<Record<string, unknown>> =>
  typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {};
const textsOf = (value: unknown): string[] =>
  (Array.isArray(value) ? value.slice(0, MAX_TARGETS + 1) : [value]).filter((one) => typeof one === 'string');

/** The ids of the path, then what the body and the answer name; beyond 32 they are counted. */
export const targetsOf = (params: unknown, body: unknown, result: unknown): string[] => {
  const named = TARGET_FIELDS.map((name) => fieldsOf(body)[name]);
  const made = RESULT_FIELDS.flatMap((name) => textsOf(fieldsOf(result)[name]));
  const all = [...new Set([...Object.values(fieldsOf(params)).flatMap(textsOf), ...made, ...named.flatMap(textsOf)])];
  const left = named.reduce<number>(
    (sum, one) => sum + (Array.isArray(one) ? Math.max(0, one.length - MAX_TARGETS - 1) : 0),
    Math.max(0, all.length - MAX_TARGETS),
  );
  const shown = all.slice(0, MAX_TARGETS).map((one) => bounded(one));
  return left > 0 ? [...shown, `and ${left} more`] : shown;
};

/** What was asked, and by whose keys it says it is signed: where the call went well, they were verified. */
export const summaryOf = (body: unknown): string[] => {
  const asked = SUMMARY_FIELDS.flatMap((name) => {
    const value = fieldsOf(body)[name];
    const text = Array.isArray(value) ? textsOf(value).join(',') : value;
    return typeof text === 'string' || typeof text === 'number' || typeof text === 'boolean'
      ? [`${name}=${bounded(String(text))}`]
      : [];
  });
  return [...asked.slice(0, MAX_ITEMS), ...signersOf(body)];
};
const signersOf = (body: unknown): string[] => {
  const envelopes = SIGNED_FIELDS.flatMap((name) => fieldsOf(body)[name] ?? []);
  const signatures = envelopes.flatMap((envelope) => fieldsOf(envelope).signatures ?? []);
  const ids = new Set(signatures.flatMap((signature) => textsOf(fieldsOf(signature).keyid)));
  return [...ids].slice(0, MAX_SIGNERS).map((id) => `signed_by=${bounded(id)}`);
};

export const actorFields = (actor: Actor | null) => {
  if (actor === null) return { actor_kind: 'nobody', actor_id: null, actor_name: null, key_id: null };
  const actor_name = bounded(actor.name);
  return actor.kind === 'node'
    ? { actor_kind: 'node', actor_id: actor.uid, actor_name, key_id: actor.keyId }
    : { actor_kind: actor.kind, actor_id: bounded(actor.id), actor_name, key_id: null };
};
