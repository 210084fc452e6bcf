/** artifacts: what an eBPF artifact says of itself (its manifest), how an assignment binds it, and what nodes report of it.
 *  Shared by archive (bundles), server (registry), daemon (loading) and CLI. Invariant: everything here that a node acts on is
 *  covered by the artifact's signature, the assignment's, or both. Must not: touch the kernel, files or the network. */
import * as z from 'zod/mini';
import { AegisError } from '../errors.ts';
import { AttachTo } from './attach-point.ts';
import { ConstantType, ConstantValue, encodeConstant } from './constants.ts';

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
/** Below zero when `a` is older than `b`; a part that is left out counts as 0. */
export const compareKernelVersions = (a: string, b: string): number => {
  const left = a.split('.').map(Number);
  const right = b.split('.').map(Number);
  for (let at = 0; at < 3; at++) {
    const difference = (left[at] ?? 0) - (right[at] ?? 0);
    if (difference !== 0) return difference;
  }
  return 0;
};
export const ARCHITECTURES = ['x86_64', 'aarch64', 'any'] as const;
export const Architecture = z.enum(ARCHITECTURES);
/** C identifiers as libbpf names programs, maps and globals. */
/** `__proto__` would be a key in signed JSON that no node reads. */
const Identifier = z.string().check(z.regex(/^(?!__proto__$)[A-Za-z_][A-Za-z0-9_.]{0,127}$/, 'a C identifier'));
/** Plain names only: a bundle has no folders. */
export const FileName = z
  .string()
  .check(z.regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$/, 'a plain file name of 1–100 of A-Z a-z 0-9 . _ -'));
/** One line that a terminal shows as it is: no control characters, line separators, bidirectional overrides, halves of pairs. */
const ONE_LINE = /^[^\p{Cc}\p{Cs}\u2028-\u202e\u2066-\u2069]*$/u;
const Text = (most: number) =>
  z.string().check(z.maxLength(most), z.regex(ONE_LINE, 'one line without control characters'));
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
  kind: z._default(
    z
      .enum(['object', 'btf'])
      .check(z.describe('object: an eBPF ELF object; btf: BTF for kernels without their own, for CO-RE.')),
    'object',
  ),
});
export type BundledObject = z.infer<typeof BundledObject>;

const InObject = z.optional(FileName.check(z.describe('Its object; needed when there are several.')));

export const Program = z.strictObject({
  name: Identifier.check(z.describe("The C function's name.")),
  object: InObject,
  attach: AttachTo,
});
export type Program = z.infer<typeof Program>;

export const Constant = z
  .strictObject({
    name: Identifier.check(
      z.describe('The global variable (const volatile) that gets the value before the object is loaded.'),
    ),
    type: ConstantType,
    value: ConstantValue,
    object: InObject,
    settable: z._default(
      z.boolean().check(z.describe('Whether an assignment may change the value (aegis assign --set name=value).')),
      false,
    ),
    description: z.optional(Text(256)),
  })
  .check((checked) => {
    const fault = faultOf(checked.value);
    if (fault) checked.issues.push({ code: 'custom', input: checked.value.value, path: ['value'], message: fault });
  });
export type Constant = z.infer<typeof Constant>;

/** Why a constant's value is none of its type. */
const faultOf = ({ type, value }: { type: ConstantType; value: ConstantValue }): string | null => {
  try {
    encodeConstant(type, value);
    return null;
  } catch (fault) {
    if (fault instanceof AegisError) return fault.message;
    throw fault;
  }
};

const MapItem = z.unknown().check(
  z.describe("By the map's BTF: a number, a text, a list or an object; or hexadecimal text."),
  z.refine((item) => item !== undefined, 'is missing'),
);
export const MapRule = z.strictObject({
  name: Identifier,
  object: InObject,
  keep: z._default(
    z
      .boolean()
      .check(z.describe('Whether its contents survive an upgrade to a version with a map of the same name and shape.')),
    false,
  ),
  share: z.optional(
    z
      .string()
      .check(
        z.regex(/^[a-z0-9][a-z0-9._-]{0,62}$/, '1–63 of a-z 0-9 . _ -'),
        z.describe('One map for all artifacts of a node that give the same name here.'),
      ),
  ),
  max_entries: z.optional(
    z.int().check(z.positive(), z.maximum(2 ** 31 - 1), z.describe("In place of the object's own max_entries.")),
  ),
  initial: z.optional(
    bounded(z.strictObject({ key: MapItem, value: MapItem }), 10_000).check(z.describe('Put in when the map is made.')),
  ),
});
export type MapRule = z.infer<typeof MapRule>;

const Label = z
  .string()
  .check(z.regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/, '1–63 of A-Z a-z 0-9 . _ -, beginning with a letter or digit'));

const SHARED = {
  format: z.literal(MANIFEST_FORMAT),
  name: ArtifactName.check(
    z.describe('With the version it names the artifact for good; assigning another version replaces it.'),
  ),
  version: ArtifactVersion.check(z.describe('A semantic version; its bytes never change once it was pushed.')),
  description: z._default(Text(1024).check(z.describe('One line for people.')), ''),
  type: z._default(z.enum(['program', 'policy', 'probe']).check(z.describe('For people and listings.')), 'program'),
  architecture: z._default(Architecture.check(z.describe('Of the nodes that may run it.')), 'any'),
  kernel_version: z._default(KernelVersion.check(z.describe('The least kernel.')), '5.15'),
  kernel_before: z.optional(KernelVersion.check(z.describe('The first kernel that is too new.'))),
  features: z._default(bounded(Feature, 16).check(z.describe('What a kernel must bring.')), []),
  tags: z._default(bounded(Label, 32).check(z.describe('Words to find it by.')), []),
  metadata: z._default(
    z.record(Label, Text(1024)).check(
      z.refine((metadata) => Object.keys(metadata).length <= 64, 'at most 64 entries'),
      z.describe('Free facts for people and policies, such as policy_type, target_ip, protocol, direction.'),
    ),
    {},
  ),
  programs: bounded(Program, 64).check(
    z.minLength(1),
    z.describe(
      'What is attached, and where. Programs of the objects that are not named here are loaded only when these call them.',
    ),
  ),
  constants: z._default(
    bounded(Constant, 256).check(z.describe("Values of the objects' .rodata, set by name before they are loaded.")),
    [],
  ),
  maps: z._default(bounded(MapRule, 256).check(z.describe('Maps that need more than their object says.')), []),
};

interface Named {
  name: string;
  object?: string | undefined;
}
interface Parts {
  objects: readonly { file: string; kind: string }[];
  programs: readonly (Named & { attach: AttachTo })[];
  constants: readonly Named[];
  maps: readonly Named[];
}
const unique = (keys: readonly string[]): boolean => new Set(keys).size === keys.length;
const objectFiles = ({ objects }: Parts): string[] =>
  objects.filter(({ kind }) => kind === 'object').map(({ file }) => file);
/** With a single object its name may be left out: that is the same program, constant or map. */
const keyIn = (parts: Parts) => {
  const only = objectFiles(parts)[0] ?? '';
  return ({ name, object }: Named): string => `${object ?? only}/${name}`;
};
const consistent = (parts: Parts): boolean => {
  const files = objectFiles(parts);
  const known = ({ object }: Named) => (object === undefined ? files.length === 1 : files.includes(object));
  return [...parts.programs, ...parts.constants, ...parts.maps].every(known);
};
/** `before: other` (without an artifact's name) is a program of the same manifest, and not itself. */
const anchored = ({ programs }: Parts): boolean =>
  programs.every(({ name, attach }) =>
    attach.kind === 'tc'
      ? [attach.before, attach.after].every(
          (anchor) =>
            anchor === undefined ||
            anchor.includes('/') ||
            (anchor !== name && programs.some((other) => other.name === anchor)),
        )
      : true,
  );

/** As it stands in a bundle. */
export const Manifest = z.strictObject({ ...SHARED, objects: bounded(BundledObject, 32).check(z.minLength(1)) }).check(
  z.refine(
    ({ objects }) => unique(objects.map(({ file }) => file.toLowerCase())),
    'objects: two files bear the same name (case does not tell them apart)',
  ),
  z.refine(
    ({ objects }) => objects.every(({ file }) => file.toLowerCase() !== MANIFEST_FILE),
    'objects: manifest.json is the manifest itself',
  ),
  z.refine(({ objects }) => objects.filter(({ kind }) => kind === 'btf').length <= 1, 'objects: at most one has BTF'),
  z.refine(consistent, 'programs, constants and maps must name one of the objects (or none when there is only one)'),
  z.refine(
    (parts) => unique(parts.programs.map((program) => JSON.stringify([keyIn(parts)(program), program.attach]))),
    'programs: one program is attached twice at the same place',
  ),
  z.refine((parts) => unique(parts.constants.map(keyIn(parts))), 'constants: one constant stands there twice'),
  z.refine((parts) => unique(parts.maps.map(keyIn(parts))), 'maps: one map stands there twice'),
  z.refine(anchored, 'programs: before and after name another program of this manifest, or artifact/program'),
  z.refine(
    ({ kernel_version, kernel_before }) =>
      kernel_before === undefined || compareKernelVersions(kernel_version, kernel_before) < 0,
    'kernel_before: must be newer than kernel_version',
  ),
);
export type Manifest = z.infer<typeof Manifest>;

/** As its author writes it: digests and sizes are filled in by `aegis artifacts pack`. */
export const ManifestSource = z.strictObject({
  ...SHARED,
  $schema: z.optional(z.string().check(z.describe('For editors; left out of the bundle.'))),
  format: z._default(z.literal(MANIFEST_FORMAT), MANIFEST_FORMAT),
  objects: bounded(
    z.strictObject({
      file: FileName.check(z.describe('Its name in the bundle.')),
      from: z.optional(
        z
          .string()
          .check(
            z.minLength(1),
            z.maxLength(1024),
            z.describe("Where to read it, relative to the manifest's folder; otherwise by the file's name."),
          ),
      ),
      kind: BundledObject.shape.kind,
    }),
    32,
  ).check(z.minLength(1), z.describe('The ELF objects, as clang -target bpf writes them, and BTF.')),
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
