import { isDeepStrictEqual } from 'node:util';
import { BackupSpec } from '@aegis/protocol/backups/config';
import type { BackupConfig } from '@aegis/protocol/backups/endpoints';
import { AegisError } from '@aegis/protocol/errors';
import { type Refusal, validate } from '@aegis/protocol/validation';
import { parse, stringify, TomlError } from 'smol-toml';
import { plainText } from '../ui/plain-text.ts';
import type { SpecTree } from './spec-flags.ts';

/** Configurations as files: TOML or JSON, one, or several under `configs`. What `toToml` prints, `specsIn` takes back unchanged. */

const bad = (file: string, what: string): AegisError =>
  new AegisError(
    'backups.bad_config',
    `${plainText(file)}: ${plainText(what)}. See deploy/examples/backup.toml, or 'aegis backups configs show NAME --toml'.`,
  );

/** Whole configurations, defaults filled in. @throws AegisError backups.bad_config, which names the file and the field */
export const specsIn = (text: string, file: string): BackupSpec[] => {
  const value = parsed(text, file);
  const list = Array.isArray(value) ? value : isTree(value) && Array.isArray(value.configs) ? value.configs : null;
  if (list !== null && isTree(value) && Object.keys(value).length > 1)
    throw bad(file, "'configs' stands alone: put everything into its members");
  if (list?.length === 0) throw bad(file, 'holds no configuration');
  const specs = (list ?? [value]).map((one: unknown, index) =>
    specOfTree(one, list === null ? file : `${file}, number ${index + 1}`),
  );
  const twice = specs.find((spec, index) => specs.findIndex(({ name }) => name === spec.name) !== index);
  if (twice) throw bad(file, `'${twice.name}' stands there twice`);
  return specs;
};

/** @throws AegisError backups.bad_config */
const specOfTree = (tree: unknown, file: string): BackupSpec => {
  const checked = validate(BackupSpec, tree, 'spec');
  if (checked.ok) return checked.value;
  const { field, reason } = faultIn(checked.refusal);
  throw bad(file, `${field || 'the whole'}: ${reason}`);
};

/** What the flags said, with defaults: as the server takes it. @throws AegisError backups.bad_config */
export const wholeSpec = (tree: SpecTree): BackupSpec => specOfTree(tree, 'the flags');

/** What is wrong with a configuration first of all, null when nothing is. */
export const faultOf = (tree: unknown): Pick<Refusal, 'field' | 'reason'> | null => {
  const checked = validate(BackupSpec, tree, 'spec');
  return checked.ok ? null : faultIn(checked.refusal);
};

/** A field that nobody knows goes before one that is missing: mostly that is the same one, mistyped. */
const faultIn = (refusal: Refusal): Pick<Refusal, 'field' | 'reason'> => {
  const { field, reason } = refusal.issues.find((issue) => UNKNOWN_FIELD.test(issue.reason)) ?? refusal;
  return { field: field.replace(/^spec\.?/, ''), reason: plainReason(reason).replace(/\.$/, '') };
};

const UNKNOWN_FIELD = /^Unrecognized keys?: /;
const KINDS: Readonly<Record<string, string>> = { array: 'a list', object: 'a table', int: 'a whole number' };
/** The schema's own words, for who writes a file. */
const plainReason = (reason: string): string => {
  const [, wanted, found] = /^Invalid input: expected (\w+), received (\w+)$/.exec(reason) ?? [];
  if (found === 'undefined') return 'is missing';
  if (wanted !== undefined) return `has to be ${KINDS[wanted] ?? `a ${wanted}`}`;
  return reason.replace(UNKNOWN_FIELD, 'there is no field ');
};

const parsed = (text: string, file: string): unknown => {
  const json = /^\s*[[{]/.test(text) && !/^\s*\[{1,2}[A-Za-z]/.test(text);
  try {
    return json ? JSON.parse(text) : parse(text);
  } catch (error) {
    const line = error instanceof TomlError ? `line ${error.line}` : 'it';
    throw bad(file, `${line} is not valid ${json ? 'JSON' : 'TOML'}`);
  }
};

const isTree = (value: unknown): value is SpecTree =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** The part of a configuration that an operator wrote, without what is its default anyway. */
export const writtenPart = (config: BackupConfig): SpecTree => {
  const spec = Object.fromEntries(
    Object.keys(BackupSpec.shape).flatMap((key) => {
      const value = config[key as keyof BackupConfig];
      return value === undefined ? [] : [[key, value]];
    }),
  );
  const whole = validate(BackupSpec, spec, 'spec');
  // A newer server may know more than we do: then everything is shown.
  if (!whole.ok) return spec;
  prune(spec, spec, whole.value);
  return spec;
};

/** Takes out of `tree` (a part of `root`) what makes no difference. */
const prune = (tree: SpecTree, root: SpecTree, wanted: BackupSpec): void => {
  for (const [key, value] of Object.entries(tree)) {
    delete tree[key];
    const without = validate(BackupSpec, root, 'spec');
    if (without.ok && isDeepStrictEqual(without.value, wanted)) continue;
    tree[key] = value;
    if (isTree(value)) prune(value, root, wanted);
  }
};

export const toToml = (config: BackupConfig): string => `${stringify(writtenPart(config)).trimEnd()}\n`;
