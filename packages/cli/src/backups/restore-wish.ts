import type { RestorePayload } from '@aegis/protocol/commands/backup-types';
import { AegisError } from '@aegis/protocol/errors';
import * as Flags from '@oclif/core/flags';
import { plainText } from '../ui/plain-text.ts';

/** What a restore is to do, the same for all three places where it can be done. */

export type RestoreWish = Pick<
  RestorePayload,
  'target' | 'paths' | 'overwrite' | 'delete' | 'dry_run' | 'owners' | 'setuid'
>;

export const wishFlags = {
  target: Flags.string({
    char: 't',
    required: true,
    helpValue: 'DIR',
    summary: 'Lay it out below this folder (/: in place)',
  }),
  path: Flags.string({
    multiple: true,
    multipleNonGreedy: true,
    helpValue: 'GLOB',
    summary: 'Only what matches, and all below it; repeatable',
  }),
  overwrite: Flags.option({
    options: ['never', 'if-newer', 'always'] as const,
    default: 'never' as const,
    summary: "What becomes of files that are there; if-newer: replaced when the backup's is newer",
  })(),
  delete: Flags.boolean({ summary: 'Remove what the backup does not have, in folders that it has' }),
  'dry-run': Flags.boolean({ summary: 'Show what would happen' }),
  owners: Flags.boolean({ summary: 'Restore owners, ACLs and device files (root only)' }),
  setuid: Flags.boolean({ summary: 'And setuid bits and file capabilities', dependsOn: ['owners'] }),
};

interface WishFlags {
  target: string;
  path?: string[] | undefined;
  overwrite: RestoreWish['overwrite'];
  delete?: boolean;
  'dry-run'?: boolean;
  owners?: boolean;
  setuid?: boolean;
}

/** @param absolute the target is on another machine, where no folder is "here"
 *  @throws AegisError cli.usage */
export const wishOf = (flags: WishFlags, absolute: boolean): RestoreWish => {
  if (absolute && !flags.target.startsWith('/'))
    throw new AegisError('cli.usage', `--target ${plainText(flags.target)}: on a node it is an absolute path.`);
  if (flags.delete && flags.overwrite === 'never')
    throw new AegisError('cli.usage', '--delete makes a folder be as the backup: add --overwrite always or if-newer.');
  if (flags.delete && flags.path)
    throw new AegisError('cli.usage', '--delete goes with the whole backup, not with --path.');
  return {
    target: flags.target,
    paths: flags.path ?? [],
    overwrite: flags.overwrite,
    delete: flags.delete ?? false,
    dry_run: flags['dry-run'] ?? false,
    owners: flags.owners ?? false,
    setuid: flags.setuid ?? false,
  };
};
