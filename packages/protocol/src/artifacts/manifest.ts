/** artifacts: what an eBPF artifact says of itself (its manifest), how an assignment binds it, and what nodes report of it.
 *  Shared by archive (bundles), server (registry), daemon (loading) and CLI. Invariant: everything here that a node acts on is
 *  covered by the artifact's signature, the assignment's, or both. Must not: touch the kernel, files or the network. */
import * as z from 'zod/mini';
import { AttachTo } from './attach-point.ts';
import { ConstantType, ConstantValue } from './constants.ts';

export const MANIFEST_FORMAT = 'aegis-artifact-1';
export const MANIFEST_FILE = 'manifest.json';

export const ArtifactName = z
  .string()
  .check(
    z.regex(
      /^[a-z0-9][a-z0-9._-]{0,62}$/,
      'an artifact name has 1–63 of a-z 0-9 . _ - and starts with a letter or digit',
    ),
  );
/** Semantic versions (https://semver.org/spec/v2.0.0.html), bounded. */
export const ArtifactVersion = z
  .string()
  .check(
    z.maxLength(64),
    z.regex(
      /^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?(\+[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?$/,
      'a version such as 1.0.0 (semver.org)',
    ),
  );
export const Sha256 = z.string().check(z.regex(/^[0-9a-f]{64}$/, 'a SHA-256 in lower-case hexadecimal'));
export const KernelVersion = z
  .string()
  .check(z.regex(/^\d{1,3}\.\d{1,4}(\.\d{1,6})?$/, 'a kernel version such as 5.15 or 6.1.0'));
export const ARCHITECTURES = ['x86_64', 'aarch64', 'any'] as const;
export const Architecture = z.enum(ARCHITECTURES);
/** C identifiers as libbpf names programs, maps and globals. */
const Identifier = z.string().check(z.regex(/^[A-Za-z_][A-Za-z0-9_.]{0,127}$/, 'a C identifier'));
/** Plain names only: a bundle has no folders. */
export const FileName = z
  .string()
  .check(z.regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$/, 'a plain file name of 1–100 of A-Z a-z 0-9 . _ -'));
const Text = (most: number) =>
  z.string().check(z.maxLength(most), z.regex(/^[^\p{Cc}]*$/u, 'text without control characters'));
const bounded = <S extends z.ZodMiniType>(item: S, most: number) => z.array(item).check(z.maxLength(most));

/** What a kernel must bring. `btf`: /sys/kernel/btf/vmlinux. */
export const Feature = z.enum([
  'btf',
  'tcx',
  'bpf_link_xdp',
  'ringbuf',
  'cgroup2',
  'netfilter_link',
  'kprobe',
  'fentry',
  'lsm',
]);
export type Feature = z.infer<typeof Feature>;

export const BundledObject = z.strictObject({
  file: FileName,
  sha256: Sha256,
  size: z.int().check(z.positive(), z.maximum(16 * 1024 * 1024)),
  /** `object`: an eBPF ELF object; `btf`: BTF of kernels without their own, for CO-RE. */
  kind: z._default(z.enum(['object', 'btf']), 'object'),
});
export type BundledObject = z.infer<typeof BundledObject>;

export const Program = z.strictObject({
  /** The C function's name. */
  name: Identifier,
  /** Needed when there are several objects. */
  object: z.optional(FileName),
  attach: AttachTo,
});
export type Program = z.infer<typeof Program>;

export const Constant = z.strictObject({
  name: Identifier,
  type: ConstantType,
  value: ConstantValue,
  object: z.optional(FileName),
  /** Whether an assignment may change it (`aegis assign --set name=value`). */
  settable: z._default(z.boolean(), false),
  description: z.optional(Text(256)),
});
export type Constant = z.infer<typeof Constant>;

export const MapRule = z.strictObject({
  name: Identifier,
  object: z.optional(FileName),
  /** Its contents survive an upgrade to a version that has a map of the same name and shape. */
  keep: z._default(z.boolean(), false),
  /** One map for all artifacts of this node that share the name. */
  share: z.optional(z.string().check(z.regex(/^[a-z0-9][a-z0-9._-]{0,62}$/))),
  max_entries: z.optional(z.int().check(z.positive(), z.maximum(2 ** 31 - 1))),
  /** Put in when the map is made; keys and values by the map's BTF, or hexadecimal text without one. */
  initial: z.optional(bounded(z.strictObject({ key: z.unknown(), value: z.unknown() }), 10_000)),
});
export type MapRule = z.infer<typeof MapRule>;

const SHARED = {
  format: z.literal(MANIFEST_FORMAT),
  name: ArtifactName,
  version: ArtifactVersion,
  description: z._default(Text(1024), ''),
  type: z._default(z.enum(['program', 'policy', 'probe']), 'program'),
  architecture: z._default(Architecture, 'any'),
  /** The least kernel. */
  kernel_version: z._default(KernelVersion, '5.15'),
  /** The first kernel that is too new. */
  kernel_before: z.optional(KernelVersion),
  features: z._default(bounded(Feature, 16), []),
  tags: z._default(bounded(z.string().check(z.regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/)), 32), []),
  /** Free facts for people and policies, as the seed's `policy_type`, `target_ip`, `protocol`, `direction`. */
  metadata: z._default(
    z
      .record(z.string().check(z.regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/)), Text(1024))
      .check(z.refine((metadata) => Object.keys(metadata).length <= 64, 'at most 64 entries')),
    {},
  ),
  programs: bounded(Program, 64).check(z.minLength(1)),
  constants: z._default(bounded(Constant, 256), []),
  maps: z._default(bounded(MapRule, 256), []),
};

const named = (at: { name: string; object?: string | undefined }): string => `${at.object ?? ''}/${at.name}`;
const unique = (keys: readonly string[]): boolean => new Set(keys).size === keys.length;
const consistent = (manifest: {
  objects: readonly { file: string; kind: string }[];
  programs: readonly { name: string; object?: string | undefined }[];
  constants: readonly { name: string; object?: string | undefined }[];
  maps: readonly { name: string; object?: string | undefined }[];
}): boolean => {
  const files = manifest.objects.filter(({ kind }) => kind === 'object').map(({ file }) => file);
  const known = ({ object }: { object?: string | undefined }) =>
    object === undefined ? files.length === 1 : files.includes(object);
  return [...manifest.programs, ...manifest.constants, ...manifest.maps].every(known);
};

/** As it stands in a bundle. */
export const Manifest = z.strictObject({ ...SHARED, objects: bounded(BundledObject, 32).check(z.minLength(1)) }).check(
  z.refine(
    ({ objects }) => unique(objects.map(({ file }) => file.toLowerCase())),
    'objects: two files bear the same name',
  ),
  z.refine(
    ({ objects }) => objects.every(({ file }) => file !== MANIFEST_FILE),
    'objects: manifest.json is the manifest itself',
  ),
  z.refine(
    ({ programs }) => unique(programs.map((program) => JSON.stringify([named(program), program.attach]))),
    'programs: one program is attached twice at the same place',
  ),
  z.refine(({ constants }) => unique(constants.map(named)), 'constants: one constant stands there twice'),
  z.refine(({ maps }) => unique(maps.map(named)), 'maps: one map stands there twice'),
  z.refine(consistent, 'programs, constants and maps must name one of the objects (or none when there is only one)'),
);
export type Manifest = z.infer<typeof Manifest>;

/** As its author writes it: digests and sizes are filled in by `aegis artifacts pack`. */
export const ManifestSource = z.strictObject({
  ...SHARED,
  /** For editors. */
  $schema: z.optional(z.string()),
  format: z._default(z.literal(MANIFEST_FORMAT), MANIFEST_FORMAT),
  objects: bounded(
    z.strictObject({
      file: FileName,
      /** Where to read it, relative to the manifest's folder; default: the file's name. */
      from: z.optional(z.string().check(z.minLength(1), z.maxLength(1024))),
      kind: BundledObject.shape.kind,
    }),
    32,
  ).check(z.minLength(1)),
});
export type ManifestSource = z.infer<typeof ManifestSource>;

/** Limits of a bundle: checked before memory is taken. */
export const BUNDLE_LIMITS = {
  packedBytes: 16 * 1024 * 1024,
  unpackedBytes: 64 * 1024 * 1024,
  /** Unpacked to packed, beyond the first MiB. */
  ratio: 200,
  files: 33,
  manifestBytes: 1024 * 1024,
} as const;
export type BundleLimits = { readonly [K in keyof typeof BUNDLE_LIMITS]: number };
