import * as z from 'zod/mini';
import { RetentionPolicy, Tag } from './retention.ts';

/** A backup configuration as an operator writes it: what is backed up, where to, when, and who does it. */

const Text = (most: number) => z.string().check(z.minLength(1), z.maxLength(most));
const noNul = z.refine<string>((text) => !text.includes('\0'), 'may not contain a NUL byte');
export const ConfigName = z
  .string()
  .check(z.regex(/^[a-z0-9][a-z0-9._-]{0,62}$/, 'lower-case letters, digits and ._- (at most 63, no leading mark)'));
export const AbsolutePath = z.string().check(
  z.maxLength(4096),
  noNul,
  z.refine(
    (path) => path.startsWith('/') && !path.split('/').some((part) => part === '.' || part === '..'),
    'must be an absolute path without . or ..',
  ),
);
const Bytes = (least: number, most: number) =>
  z.int(`a whole number of bytes, ${least} to ${most}`).check(z.minimum(least), z.maximum(most));
const Seconds = (least: number, most: number) =>
  z.int(`a whole number of seconds, ${least} to ${most}`).check(z.minimum(least), z.maximum(most));

const PATTERN = Text(4096).check(noNul);
const Patterns = z._default(z.array(PATTERN).check(z.maxLength(4096)), []);
const Files = z._default(z.array(AbsolutePath).check(z.maxLength(64)), []);
/** restic's semantics, see packages/archive/src/backup/select. */
export const Excludes = z.strictObject({
  patterns: Patterns,
  ipatterns: Patterns,
  /** Read on the node at each run. */
  files: Files,
  ifiles: Files,
  caches: z._default(z.boolean(), false),
  /** `NAME` or `NAME:HEADER`. */
  if_present: z._default(z.array(PATTERN).check(z.maxLength(64)), []),
  larger_than: z.optional(Bytes(1, Number.MAX_SAFE_INTEGER)),
  one_file_system: z._default(z.boolean(), false),
});
export type Excludes = z.infer<typeof Excludes>;

/** How a node gets at the bucket. `signed`: each request is signed by the server, and no credential leaves it. */
export const ACCESS_WAYS = ['signed', 'presigned', 'sts', 'static'] as const;
export const AccessWay = z.enum(ACCESS_WAYS);
export type AccessWay = z.infer<typeof AccessWay>;

const Endpoint = z.string().check(
  z.maxLength(512),
  z.refine((text) => {
    if (!URL.canParse(text)) return false;
    const url = new URL(text);
    return /^https?:$/.test(url.protocol) && url.pathname === '/' && !/[?#@]/.test(text);
  }, 'an http:// or https:// address without a path or a user, e.g. https://s3.example.com'),
);
const Prefix = z.string().check(
  z.maxLength(512),
  z.regex(/^(?:[A-Za-z0-9!_.*'()=-]+(?:\/[A-Za-z0-9!_.*'()=-]+)*)?$/, "segments of letters, digits and !_.*'()=-"),
  z.refine((text) => !text.split('/').some((part) => part === '.' || part === '..'), 'may not have . or .. segments'),
);
export const S3Destination = z
  .strictObject({
    kind: z.literal('s3'),
    bucket: z.string().check(z.regex(/^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$/, 'not the name of an S3 bucket')),
    region: z._default(z.string().check(z.regex(/^[a-z0-9-]{1,64}$/, 'a region such as eu-central-1')), 'us-east-1'),
    prefix: z._default(Prefix, ''),
    /** Absent: Amazon's own of the region. */
    endpoint: z.optional(Endpoint),
    path_style: z._default(z.boolean(), false),
    storage_class: z.optional(z.string().check(z.regex(/^[A-Z_]{1,32}$/, 'a storage class such as STANDARD_IA'))),
    /** Objects cannot be deleted for so long (the bucket must have object lock). */
    object_lock_days: z.optional(z.int().check(z.minimum(1), z.maximum(36_500))),
    object_lock_mode: z._default(z.enum(['governance', 'compliance']), 'governance'),
    /** `when_required` for servers that do not know S3's newer checksum trailers. */
    checksum: z._default(z.enum(['when_required', 'when_supported']), 'when_required'),
    access: z._default(AccessWay, 'signed'),
    sts: z.optional(
      z.strictObject({
        role_arn: z.string().check(z.regex(/^arn:[A-Za-z0-9:/_+=,.@-]{8,2040}$/, 'the ARN of a role')),
        /** Absent: the S3 endpoint where one is given, else Amazon's. */
        endpoint: z.optional(Endpoint),
        duration_sec: z._default(Seconds(900, 43_200), 3600),
      }),
    ),
    /** PEM of a certificate authority, for endpoints of one's own. */
    ca: z.optional(Text(64 * 1024)),
  })
  .check(
    z.refine((one) => (one.access === 'sts') === (one.sts !== undefined), {
      error: "access = 'sts' and the sts settings belong together",
      path: ['sts'],
    }),
  );
export type S3Destination = z.infer<typeof S3Destination>;
/** A folder of the machine that makes the backup: a disk, a share. */
export const FileDestination = z.strictObject({ kind: z.literal('file'), path: AbsolutePath });
export const Destination = z.discriminatedUnion('kind', [S3Destination, FileDestination]);
export type Destination = z.infer<typeof Destination>;

export const Recipient = z
  .string()
  .check(z.regex(/^age1[02-9ac-hj-np-z]{58}$/, 'an age recipient (age1…, as age-keygen prints it)'));

const TimeOfDay = z.string().check(z.regex(/^(?:[01]\d|2[0-3]):[0-5]\d$/, 'a time of day such as 22:00'));
const TimeZone = z.string().check(
  z.maxLength(64),
  z.refine((zone) => {
    try {
      new Intl.DateTimeFormat('en', { timeZone: zone });
      return true;
    } catch {
      return false;
    }
  }, 'a time zone such as Europe/Berlin'),
);
const CRON = /^@(?:yearly|annually|monthly|weekly|daily|hourly)$|^\S+(?: \S+){4,5}$/;
export const Schedule = z.strictObject({
  /** Five fields (or six with seconds), or @daily and its like; checked whole by the server. */
  cron: z.string().check(z.maxLength(128), z.regex(CRON, 'a cron expression such as "30 2 * * *"')),
  timezone: z._default(TimeZone, 'UTC'),
  /** Each node starts at its own fixed moment within this time after the schedule's. */
  jitter_sec: z._default(Seconds(0, 86_400), 0),
  /** What was missed (asleep, switched off) runs once when the node is back. */
  catch_up: z._default(z.boolean(), true),
});
export type Schedule = z.infer<typeof Schedule>;

const Rate = Bytes(1024, 1024 ** 4);
export const Bandwidth = z.strictObject({
  /** Bytes a second of all uploads of a run; absent: unlimited. */
  upload: z.optional(Rate),
  /** Where windows overlap, the first one counts. */
  windows: z._default(
    z
      .array(
        z.strictObject({
          from: TimeOfDay,
          to: TimeOfDay,
          days: z.optional(z.array(z.enum(['mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun'])).check(z.minLength(1))),
          /** Absent: unlimited in this window. */
          upload: z.optional(Rate),
        }),
      )
      .check(z.maxLength(16)),
    [],
  ),
  timezone: z._default(TimeZone, 'UTC'),
});
export type Bandwidth = z.infer<typeof Bandwidth>;

export const Hook = z.strictObject({
  argv: z.array(z.string().check(z.maxLength(32 * 1024), noNul)).check(z.minLength(1), z.maxLength(256)),
  timeout_sec: z._default(Seconds(1, 86_400), 300),
  user: z.optional(z.string().check(z.regex(/^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}\$?$/, 'not a user name or uid'))),
});
export type Hook = z.infer<typeof Hook>;
const Hooks = z._default(z.array(Hook).check(z.maxLength(16)), []);

/** What a node needs of a configuration, and is bound by its directive. */
const carriedOut = {
  sources: z.array(AbsolutePath).check(z.minLength(1), z.maxLength(256)),
  exclude: z.prefault(Excludes, {}),
  destination: Destination,
  type: z._default(z.literal('full'), 'full'),
  compression: z.prefault(z.strictObject({ level: z._default(z.int().check(z.minimum(1), z.maximum(19)), 3) }), {}),
  encryption: z.prefault(z.strictObject({ recipients: z._default(z.array(Recipient).check(z.maxLength(32)), []) }), {}),
  schedule: z.optional(Schedule),
  bandwidth: z.prefault(Bandwidth, {}),
  hooks: z.prefault(z.strictObject({ before: Hooks, after: Hooks, on_failure: Hooks }), {}),
  limits: z.prefault(
    z.strictObject({
      /** From the start of a run to its end, hooks and retries included. */
      run_sec: z._default(Seconds(60, 30 * 86_400), 86_400),
      /** Of the packed archive. */
      archive_bytes: z.optional(Bytes(1, 5 * 1024 ** 4)),
    }),
    {},
  ),
  retries: z.prefault(
    z.strictObject({
      /** Times that a failed run is tried again from the start. */
      max: z._default(z.int().check(z.minimum(0), z.maximum(20)), 2),
      /** Before the first; doubled each time. */
      backoff_sec: z._default(Seconds(1, 86_400), 60),
    }),
    {},
  ),
  tags: z._default(z.array(Tag).check(z.maxLength(16)), []),
};
export const Work = z.strictObject(carriedOut);
export type Work = z.infer<typeof Work>;

/** Whole: what `aegis backups configs apply` takes. Credentials are not part of it. */
export const BackupSpec = z
  .strictObject({
    name: ConfigName,
    description: z._default(z.string().check(z.maxLength(1024)), ''),
    ...carriedOut,
    /** `agent`: on the nodes; `server`: files of the control server itself. */
    execution_mode: z._default(z.enum(['agent', 'server']), 'agent'),
    /** Names and selectors, as `aegis submit --target` takes them; nodes that match later are included. */
    nodes: z._default(z.array(Text(1024)).check(z.maxLength(1000)), []),
    retention: z.prefault(RetentionPolicy, {}),
    alerts: z.prefault(
      z.strictObject({
        on_failure: z._default(z.boolean(), true),
        /** No success on a node for so long is an alert of its own. */
        expect_within_sec: z.optional(Seconds(60, 366 * 86_400)),
      }),
      {},
    ),
    verification: z.optional(
      z.strictObject({
        /** The newest archive of each node is fetched and checked whole this often. */
        every_days: z.int().check(z.minimum(1), z.maximum(365)),
      }),
    ),
    /** No scheduled run starts. */
    paused: z._default(z.boolean(), false),
  })
  .check(
    z.refine((spec) => spec.execution_mode === 'agent' || spec.nodes.length === 0, {
      error: "a configuration of execution_mode 'server' has no nodes",
      path: ['nodes'],
    }),
  );
export type BackupSpec = z.infer<typeof BackupSpec>;

/** Write-only: encrypted at rest on the server and shown by no one. Absent: the server's own (environment, profile, instance role). */
export const Credentials = z.strictObject({
  access_key_id: z.string().check(z.regex(/^[\w+=,.@-]{3,128}$/, 'not an access key id')),
  secret_access_key: z.string().check(z.regex(/^[\x21-\x7e]{8,256}$/, 'not a secret access key')),
  session_token: z.optional(z.string().check(z.regex(/^[\x21-\x7e]{1,4096}$/))),
});
export type Credentials = z.infer<typeof Credentials>;
