import type { NewTrustedKey } from '@aegis/protocol/access/endpoints';
import * as Flags from '@oclif/core/flags';

/** What a key is to be listed for, as flags of those commands that list one. */

const USAGES = ['operate', 'artifacts', 'release'] as const;
const KINDS = ['command.run', 'command.cancel', 'artifacts.assign', 'backups.config'] as const;

export const usageFlag = {
  usage: Flags.option({
    options: USAGES,
    multiple: true,
    multipleNonGreedy: true,
    summary: "What the key may do: sign an operator's orders, artifacts, releases; repeatable",
  })(),
};
export const keyUseFlags = {
  person: Flags.string({ helpValue: 'NAME', summary: 'Whose key it is' }),
  scope: Flags.string({
    helpValue: 'SELECTOR',
    summary: "Only on nodes that say so of themselves, as in site=fra (of usage 'operate')",
  }),
  kind: Flags.option({
    options: KINDS,
    multiple: true,
    multipleNonGreedy: true,
    summary: "Only orders of this kind (of usage 'operate'); repeatable",
  })(),
};

export const scopeOf = ({
  scope,
  kind,
}: {
  scope?: string | undefined;
  kind?: NonNullable<NewTrustedKey['scope']>['kinds'] | undefined;
}): Pick<NewTrustedKey, 'scope'> => {
  if (scope === undefined && kind === undefined) return {};
  return { scope: { ...(kind ? { kinds: kind } : {}), ...(scope === undefined ? {} : { selector: scope }) } };
};
