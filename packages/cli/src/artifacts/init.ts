import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { ArtifactName } from '@aegis/protocol/artifacts/manifest';
import { AegisError } from '@aegis/protocol/errors';
import { validate } from '@aegis/protocol/validation';
import { existing } from './local-files.ts';
import { type TemplateKind, templateFiles } from './template/files.ts';

/** A new artifact's folder. Nothing that is there is written over. @throws AegisError cli.usage */
export const initFolder = (name: string, folder: string, kind: TemplateKind): string[] => {
  const checked = validate(ArtifactName, name, 'name');
  if (!checked.ok) throw new AegisError('cli.usage', `'${name}': ${checked.refusal.reason}.`);
  const files = templateFiles(name, kind);
  try {
    for (const file of files.keys()) refuseExisting(join(folder, file));
    mkdirSync(folder, { recursive: true });
    for (const [file, text] of files) writeFileSync(join(folder, file), text, { flag: 'wx' });
  } catch (error) {
    if (error instanceof AegisError) throw error;
    const reason = (error as NodeJS.ErrnoException).code ?? String(error);
    throw new AegisError('cli.usage', `${folder} cannot be written (${reason}). Choose another folder with --dir.`);
  }
  return [...files.keys()];
};

const refuseExisting = (path: string): void => {
  if (existing(path))
    throw new AegisError('cli.usage', `${path} is there already and stays as it is. Choose another folder with --dir.`);
};
