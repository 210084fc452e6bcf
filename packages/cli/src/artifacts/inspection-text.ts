import { facts, table } from '../ui/table.ts';
import { byteCount } from '../ui/time.ts';
import { manifestTables, needsOf } from './artifact-facts.ts';
import type { Inspection } from './inspect.ts';
import type { ObjectInspection } from './objects.ts';

/** What `inspect` found, for people. */
export const inspectionText = (inspection: Inspection, width: number | undefined): string => {
  const { manifest, objects, sha256, size } = inspection;
  if (manifest === null) return objects.map((object) => objectText(object, width)).join('\n');
  const head = facts([
    ['artifact', `${manifest.name}@${manifest.version}`],
    ['description', manifest.description || null],
    ['sha256', sha256],
    ['size', byteCount(size)],
    ...needsOf(manifest),
  ]);
  return head + manifestTables(manifest, width) + objects.map((object) => `\n${objectText(object, width)}`).join('');
};

const objectText = (object: ObjectInspection, width: number | undefined): string => {
  const { programs, maps, globals, externs } = object;
  const head = facts([
    ['object', object.file],
    ['sha256', object.sha256],
    ['size', byteCount(object.size)],
    ['license', object.license || 'none: functions under the GPL are closed to it'],
    ['types (BTF)', object.btf ? 'yes' : 'no'],
    ["needs the kernel's BTF", btfNeed(object)],
    ['of the kernel', externs.join(', ') || null],
  ]);
  const parts = [
    table(
      ['PROGRAM', 'SECTION', 'TYPE', 'INSTRUCTIONS'],
      programs.map((one) => [one.name, one.section, one.type ?? '(by the manifest)', String(one.instructions)]),
      width,
    ),
  ];
  if (maps.length > 0)
    parts.push(
      table(
        ['MAP', 'TYPE', 'KEY', 'VALUE', 'MAX ENTRIES'],
        maps.map((one) => [
          one.name,
          one.type,
          byteCount(one.key_bytes),
          byteCount(one.value_bytes),
          String(one.max_entries),
        ]),
        width,
      ),
    );
  if (globals.length > 0)
    parts.push(
      table(
        ['GLOBAL', 'SECTION', 'TYPE', 'SIZE'],
        globals.map((one) => [one.name, one.section, one.type, byteCount(one.bytes)]),
        width,
      ),
    );
  return head + parts.map((part) => `\n${part}`).join('');
};

const btfNeed = ({ needs_kernel_btf, core_relocations }: ObjectInspection): string => {
  if (!needs_kernel_btf) return 'no';
  return core_relocations > 0 ? `yes, it is fitted to the kernel in ${core_relocations} places` : 'yes';
};
