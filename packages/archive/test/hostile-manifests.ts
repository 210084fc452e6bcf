import { canonicalJson } from '../src/bundle/canonical-json.ts';
import { bundleOf, entriesOf, FILES, goodManifest, manifestWith, withManifest } from './bundle-forge.ts';
import type { HostileCase } from './hostile-case.ts';

/** Bundles whose manifest is none, or at odds with the files or with itself. */

const bad = (name: string, reason: string, says: string, bytes: () => Buffer): HostileCase => ({
  name,
  bytes,
  code: 'artifacts.bad_manifest',
  reason,
  says,
});
const invalid = (name: string, says: string, fields: () => Record<string, unknown>): HostileCase =>
  bad(name, 'invalid', says, () => withManifest(manifestWith(fields())));

const text = () => canonicalJson(goodManifest());
const program = (attach: Record<string, unknown>, more: Record<string, unknown> = {}) => ({
  programs: [{ name: 'block', object: 'a.o', attach, ...more }],
});
const object = (fields: Record<string, unknown>) => ({
  objects: goodManifest().objects.map((one) => (one.file === 'a.o' ? { ...one, ...fields } : one)),
});
const constant = (fields: Record<string, unknown>) => ({
  constants: [{ name: 'target_ip', object: 'a.o', type: 'ipv4', value: '192.0.2.9', settable: true, ...fields }],
});

const TEXTS: readonly HostileCase[] = [
  bad('an empty manifest', 'not_json', 'manifest.json is no JSON that Aegis reads: Unexpected end of JSON input.', () =>
    withManifest(''),
  ),
  bad(
    'a manifest that is no JSON',
    'not_json',
    'manifest.json is no JSON that Aegis reads: Unexpected token \'a\', "name: block-icmp\\u{a}" is not valid JSON.',
    () => withManifest('name: block-icmp\n'),
  ),
  bad(
    'a manifest with a terminal sequence',
    'not_json',
    'manifest.json is no JSON that Aegis reads: Unexpected token \'\\u{1b}\', "\\u{1b}]0;owned\\u{7}" is not valid JSON.',
    () => withManifest('\x1b]0;owned\x07'),
  ),
  bad('a manifest that is not UTF-8', 'not_utf8', 'manifest.json is not UTF-8.', () =>
    withManifest(Buffer.from('{"name":"\xff"}', 'latin1')),
  ),
  bad(
    'a manifest with a byte order mark',
    'not_json',
    'manifest.json is no JSON that Aegis reads: Unexpected token \'\\u{feff}\', "\\u{feff}{"archite"... is not valid JSON.',
    () => withManifest(`\ufeff${text()}`),
  ),
  bad('a repeated key', 'not_json', 'manifest.json is no JSON that Aegis reads: JSON has the key "name" twice.', () =>
    withManifest(text().replace('{', '{"name":"other",')),
  ),
  bad(
    'a repeated key, one of them escaped',
    'not_json',
    'manifest.json is no JSON that Aegis reads: JSON has the key "name" twice.',
    () => withManifest(text().replace('{', '{"n\\u0061me":"other",')),
  ),
  bad(
    'a prototype',
    'not_json',
    'manifest.json is no JSON that Aegis reads: JSON may not have a key "__proto__".',
    () => withManifest(text().replace('{', '{"__proto__":{"settable":true},')),
  ),
  bad(
    'a hundred thousand brackets',
    'not_json',
    'manifest.json is no JSON that Aegis reads: JSON is nested more than 24 levels deep.',
    () => withManifest('['.repeat(100_000) + ']'.repeat(100_000)),
  ),
  bad(
    'a manifest with white space',
    'not_canonical',
    "manifest.json is not canonical JSON (RFC 8785: sorted keys, no white space): pack it with 'aegis artifacts pack'.",
    () => withManifest(JSON.stringify(goodManifest(), null, 2)),
  ),
  bad(
    'keys in another order',
    'not_canonical',
    "manifest.json is not canonical JSON (RFC 8785: sorted keys, no white space): pack it with 'aegis artifacts pack'.",
    () => withManifest(JSON.stringify(Object.fromEntries(Object.entries(goodManifest()).reverse()))),
  ),
  bad(
    'a number written otherwise',
    'not_canonical',
    "manifest.json is not canonical JSON (RFC 8785: sorted keys, no white space): pack it with 'aegis artifacts pack'.",
    () => withManifest(text().replace('"size":8', '"size":8.0')),
  ),
  bad(
    'a letter written as an escape',
    'not_canonical',
    "manifest.json is not canonical JSON (RFC 8785: sorted keys, no white space): pack it with 'aegis artifacts pack'.",
    () => withManifest(text().replace('a.o', '\\u0061.o')),
  ),
  bad(
    'half of a surrogate pair',
    'not_canonical',
    "manifest.json is not canonical JSON (RFC 8785: sorted keys, no white space): pack it with 'aegis artifacts pack'.",
    () => withManifest(text().replace('"description":""', '"description":"\\ud800"')),
  ),
  bad(
    'a list',
    'invalid',
    'manifest: Invalid input: expected object, received array. See docs/artifact-format.md.',
    () => withManifest([goodManifest()]),
  ),
  bad('null', 'invalid', 'manifest: Invalid input: expected object, received null. See docs/artifact-format.md.', () =>
    withManifest(null),
  ),
];

const FIELDS: readonly HostileCase[] = [
  invalid(
    'another format',
    'manifest.format: Invalid input: expected "aegis-artifact-1". See docs/artifact-format.md.',
    () => ({ format: 'aegis-artifact-2' }),
  ),
  invalid(
    'a field that nobody knows',
    'manifest: Unrecognized key: "run_before". See docs/artifact-format.md.',
    () => ({ run_before: 'rm -rf /' }),
  ),
  invalid(
    'seventy thousand fields that nobody knows',
    'manifest: Unrecognized keys: "!0", "!1", "!10", "!100", "!1000", "!10000", "!10001", "!10002", "!10003", "!10004", "!10005", "!10006", "!10007", "!10008", "!10009", "!100…. See docs/artifact-format.md.',
    () => Object.fromEntries(Array.from({ length: 70_000 }, (_, at) => [`!${at}`, 1])),
  ),
  invalid(
    'three hundred thousand programs',
    'manifest.programs: Too big: expected array to have <=64 items. See docs/artifact-format.md.',
    () => ({ programs: Array.from({ length: 300_000 }, () => ({})) }),
  ),
  invalid(
    'a name with a path',
    'manifest.name: an artifact name has 1–63 of a-z 0-9 . _ - and starts with a letter or digit. See docs/artifact-format.md.',
    () => ({ name: '../block-icmp' }),
  ),
  invalid(
    'a version that is none',
    'manifest.version: a version such as 1.0.0 (semver.org). See docs/artifact-format.md.',
    () => ({ version: '1.0' }),
  ),
  invalid(
    'a terminal sequence in the description',
    'manifest.description: one line without control characters. See docs/artifact-format.md.',
    () => ({ description: 'harmless\x1b[8m' }),
  ),
  invalid(
    'text that runs from right to left',
    'manifest.description: one line without control characters. See docs/artifact-format.md.',
    () => ({ description: 'harmless \u202e evil' }),
  ),
  invalid(
    'kernels from 6.1 to 5.15',
    'manifest: kernel_before: must be newer than kernel_version. See docs/artifact-format.md.',
    () => ({ kernel_version: '6.1', kernel_before: '5.15' }),
  ),
  invalid(
    'an object with a path that leads out',
    'manifest.objects.0.file: a plain file name of 1–100 of A-Z a-z 0-9 . _ -. See docs/artifact-format.md.',
    () => object({ file: '../a.o' }),
  ),
  invalid(
    'an object with an absolute path',
    'manifest.objects.0.file: a plain file name of 1–100 of A-Z a-z 0-9 . _ -. See docs/artifact-format.md.',
    () => object({ file: '/lib/modules/a.o' }),
  ),
  invalid(
    'the manifest as its own object',
    'manifest: objects: manifest.json is the manifest itself. See docs/artifact-format.md.',
    () => object({ file: 'manifest.json' }),
  ),
  invalid(
    'the manifest in capitals as an object',
    'manifest: objects: manifest.json is the manifest itself. See docs/artifact-format.md.',
    () => object({ file: 'Manifest.json' }),
  ),
  invalid(
    'two objects that differ in case only',
    'manifest: objects: two files bear the same name (case does not tell them apart). See docs/artifact-format.md.',
    () => object({ file: 'B.o' }),
  ),
  invalid(
    'an object of 17 MiB',
    'manifest.objects.0.size: Too big: expected number to be <=16777216. See docs/artifact-format.md.',
    () => object({ size: 17 * 1024 * 1024 }),
  ),
  invalid(
    'an object of no bytes',
    'manifest.objects.0.size: Too small: expected number to be >0. See docs/artifact-format.md.',
    () => object({ size: 0 }),
  ),
  invalid(
    'a digest in capitals',
    'manifest.objects.0.sha256: a SHA-256 in lower-case hexadecimal. See docs/artifact-format.md.',
    () => object({ sha256: 'A'.repeat(64) }),
  ),
  invalid(
    'no objects',
    'manifest.objects: Too small: expected array to have >=1 items. See docs/artifact-format.md.',
    () => ({ objects: [] }),
  ),
  invalid(
    'no programs',
    'manifest.programs: Too small: expected array to have >=1 items. See docs/artifact-format.md.',
    () => ({ programs: [] }),
  ),
  invalid(
    'a program of another object',
    'manifest: programs, constants and maps must name one of the objects (or none when there is only one). See docs/artifact-format.md.',
    () => program({ kind: 'xdp', interface: 'eth0' }, { object: 'c.o' }),
  ),
  invalid(
    'a program twice at one place',
    'manifest: programs: one program is attached twice at the same place. See docs/artifact-format.md.',
    () => {
      const one = { name: 'block', object: 'a.o', attach: { kind: 'xdp', interface: 'eth0' } };
      return { programs: [one, one] };
    },
  ),
  invalid(
    'a program before itself',
    'manifest: programs: before and after name another program of this manifest, or artifact/program. See docs/artifact-format.md.',
    () => program({ kind: 'tc', interface: 'eth0', direction: 'egress', before: 'block' }),
  ),
  invalid(
    'a kind of attachment that there is not',
    "manifest.programs.0.attach.kind: Invalid discriminator value. Expected 'xdp' | 'tc' | 'cgroup_skb' | 'cgroup_sock' | 'cgroup_sock_addr' | 'cgroup_sockopt' | 'cgroup_sysctl' | 'cgroup_device' | …. See docs/artifact-format.md.",
    () => program({ kind: 'kmod', name: 'evil' }),
  ),
  invalid(
    'a cgroup that leads out',
    "manifest.programs.0.attach.cgroup: a path below the cgroup v2 mount, such as /system.slice; '/' is the root. See docs/artifact-format.md.",
    () => program({ kind: 'sock_ops', cgroup: '/../../etc' }),
  ),
  invalid(
    'a cgroup that leads out behind a line separator',
    "manifest.programs.0.attach.cgroup: a path below the cgroup v2 mount, such as /system.slice; '/' is the root. See docs/artifact-format.md.",
    () => program({ kind: 'sock_ops', cgroup: '/\u2028/../../../etc' }),
  ),
  invalid(
    'a binary by a relative path',
    "manifest.programs.0.attach.binary: an absolute path without '.' or '..' parts. See docs/artifact-format.md.",
    () => program({ kind: 'uprobe', binary: 'bin/sh', symbol: 'main' }),
  ),
  invalid(
    'a network namespace that leads out',
    "manifest.programs.0.attach.netns: an absolute path without '.' or '..' parts. See docs/artifact-format.md.",
    () => program({ kind: 'xdp', interface: 'eth0', netns: '/run/netns/../../proc/1/ns/net' }),
  ),
  invalid(
    'an interface that is a path',
    'manifest.programs.0.attach.interface: an interface name, a glob such as eth*, or default-route. See docs/artifact-format.md.',
    () => program({ kind: 'xdp', interface: '../../eth0' }),
  ),
  invalid(
    'two dots as an interface',
    'manifest.programs.0.attach.interface: an interface name, a glob such as eth*, or default-route. See docs/artifact-format.md.',
    () => program({ kind: 'xdp', interface: '..' }),
  ),
  invalid(
    'a tracepoint with a path',
    'manifest.programs.0.attach.category: a name of A-Z a-z 0-9 _ -. See docs/artifact-format.md.',
    () => program({ kind: 'tracepoint', category: '../..', name: 'x' }),
  ),
  invalid(
    'a uprobe at nothing',
    'manifest.programs.0.attach: a symbol, or an offset into the file. See docs/artifact-format.md.',
    () => program({ kind: 'uprobe', binary: '/bin/sh' }),
  ),
  invalid(
    'an address that is none',
    "manifest.constants.0.value: '999.0.2.9' is no ipv4: give an address such as 192.0.2.9. See docs/artifact-format.md.",
    () => constant({ value: '999.0.2.9' }),
  ),
  invalid(
    'a number beyond its type',
    "manifest.constants.0.value: '256' is no u8: give a whole number from 0 to 255. See docs/artifact-format.md.",
    () => constant({ type: 'u8', value: 256 }),
  ),
  invalid(
    'a constant twice',
    'manifest: constants: one constant stands there twice. See docs/artifact-format.md.',
    () => ({ constants: [constant({}), constant({})].flatMap((one) => one.constants) }),
  ),
  invalid(
    'a shared map with a path',
    'manifest.maps.0.share: 1–63 of a-z 0-9 . _ -. See docs/artifact-format.md.',
    () => ({ maps: [{ name: 'm', object: 'a.o', share: '../maps' }] }),
  ),
];

const ODDS: readonly HostileCase[] = [
  bad(
    'a file that the manifest does not name',
    'extra_file',
    "The manifest names no object 'c.o', and the bundle has it.",
    () => bundleOf(entriesOf(goodManifest(), new Map([...FILES, ['c.o', Buffer.from('x')]]))),
  ),
  bad(
    'a file that the bundle lacks',
    'missing_file',
    "The manifest names the object 'b.o', and the bundle lacks it.",
    () => bundleOf(entriesOf(goodManifest(), new Map([...FILES].slice(0, 1)))),
  ),
  bad('an object of another size', 'size_mismatch', "'a.o' has 10 bytes, and 8 by the manifest.", () =>
    bundleOf(entriesOf(goodManifest(), new Map([...FILES, ['a.o', Buffer.from('\x7fELF other')]]))),
  ),
  bad('an object with other bytes', 'digest_mismatch', "'a.o' has another SHA-256 than the manifest says.", () =>
    bundleOf(entriesOf(goodManifest(), new Map([...FILES, ['a.o', Buffer.from('\x7fELF two')]]))),
  ),
  bad('a size that swallows the next entry', 'size_mismatch', "'a.o' has 1536 bytes, and 8 by the manifest.", () =>
    bundleOf(
      entriesOf().map((entry) =>
        entry.name === 'a.o' ? { ...entry, header: (block) => block.write('00000003000', 124, 'latin1') } : entry,
      ),
    ),
  ),
  bad('two objects that changed places', 'size_mismatch', "'a.o' has 16 bytes, and 8 by the manifest.", () =>
    bundleOf(
      entriesOf(
        goodManifest(),
        new Map([
          ['a.o', FILES.get('b.o') ?? Buffer.alloc(0)],
          ['b.o', FILES.get('a.o') ?? Buffer.alloc(0)],
        ]),
      ),
    ),
  ),
];

export const HOSTILE_MANIFESTS: readonly HostileCase[] = [...TEXTS, ...FIELDS, ...ODDS];
