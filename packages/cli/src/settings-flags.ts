import { AegisError } from '@aegis/protocol/errors';
import { table } from './ui/table.ts';

/** How the flags of `start` and `config` become the settings that server and daemon know, and how settings are shown. */

type FlagValue = string | number | boolean | string[] | undefined;

/** Flags by key; `--set KEY=VALUE` adds any other key. What is no setting (`json`) is left out. */
export const settingsOf = (flags: Readonly<Record<string, FlagValue>>): Record<string, FlagValue> => {
  const { json: _json, set, ...rest } = flags;
  const settings: Record<string, FlagValue> = Object.fromEntries(
    Object.entries(rest).filter(([, value]) => value !== undefined),
  );
  for (const pair of Array.isArray(set) ? set : []) {
    const at = pair.indexOf('=');
    if (at < 1) throw new AegisError('cli.usage', `--set ${pair}: write KEY=VALUE.`);
    settings[pair.slice(0, at)] = pair.slice(at + 1);
  }
  return settings;
};

export interface ShownSetting {
  key: string;
  value: unknown;
  origin: string;
}

export const configText = (settings: readonly ShownSetting[], width: number | undefined): string =>
  table(
    ['KEY', 'VALUE', 'ORIGIN'],
    settings.map(({ key, value, origin }) => [key, typeof value === 'string' ? value : JSON.stringify(value), origin]),
    width,
  );
