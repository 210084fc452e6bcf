import { constantKey } from '@aegis/protocol/artifacts/assignment';
import { type ConstantValue, encodeConstant } from '@aegis/protocol/artifacts/constants';
import type { Constant } from '@aegis/protocol/artifacts/manifest';
import { AegisError } from '@aegis/protocol/errors';

/** What an assignment sets in place of the manifest's constants: checked against what the manifest declares. */

export type Settings = Readonly<Record<string, ConstantValue>>;

const MAX_SHOWN = 20;

/** By constantKey, keys in order. A constant of an object may be named without it where that is clear.
 *  @throws AegisError artifacts.unknown_constant, artifacts.not_settable, artifacts.bad_constant */
export const checkedSettings = (constants: readonly Constant[], given: Settings): Record<string, ConstantValue> => {
  const checked = new Map<string, ConstantValue>();
  for (const [key, value] of Object.entries(given)) {
    const constant = constantNamed(constants, key);
    if (!constant.settable)
      throw new AegisError(
        'artifacts.not_settable',
        `The manifest does not let an assignment change '${shown(key)}'. ${settableOnes(constants)}`,
      );
    refuseBad(constant, value);
    const own = constantKey(constant);
    if (checked.has(own))
      throw new AegisError('artifacts.unknown_constant', `'${shown(own)}' is set twice, by two names. Set it once.`);
    checked.set(own, value);
  }
  return inOrder(checked);
};

/** Every constant's value, the settings in place of the manifest's. Keys in order: the same assignment is the same text. */
export const effectiveConstants = (constants: readonly Constant[], settings: Settings): Record<string, ConstantValue> =>
  inOrder(
    new Map(
      constants.map((constant) => {
        const key = constantKey(constant);
        const set = Object.hasOwn(settings, key) ? settings[key] : undefined;
        return [key, set ?? constant.value];
      }),
    ),
  );

const inOrder = (values: ReadonlyMap<string, ConstantValue>): Record<string, ConstantValue> =>
  Object.fromEntries([...values].sort(([a], [b]) => (a < b ? -1 : 1)));

const constantNamed = (constants: readonly Constant[], key: string): Constant => {
  const exact = constants.find((constant) => constantKey(constant) === key);
  if (exact) return exact;
  const [byName, ...others] = constants.filter(({ name }) => name === key);
  if (byName && others.length === 0) return byName;
  throw new AegisError(
    'artifacts.unknown_constant',
    byName
      ? `Several objects have a constant '${shown(key)}': name its object too, as in '${constantKey(byName)}'.`
      : `The artifact has no constant '${shown(key)}'. ${settableOnes(constants)}`,
  );
};

const refuseBad = (constant: Constant, value: ConstantValue): void => {
  try {
    encodeConstant(constant.type, value);
  } catch (error) {
    if (!(error instanceof AegisError)) throw error;
    throw new AegisError(error.code, `${constantKey(constant)}: ${error.message}`, { cause: error });
  }
};

const settableOnes = (constants: readonly Constant[]): string => {
  const settable = constants.filter((constant) => constant.settable);
  if (settable.length === 0) return 'None can be set.';
  const names = settable.slice(0, MAX_SHOWN).map((constant) => `${constantKey(constant)} (${constant.type})`);
  const more = settable.length > names.length ? ` and ${settable.length - names.length} more` : '';
  return `What can be set: ${names.join(', ')}${more}.`;
};

const shown = (text: string): string => text.slice(0, 128);
