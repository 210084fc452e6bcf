import { createCipheriv } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { onTestFinished } from 'vitest';
import { type CreateOptions, type CreateResult, createArchive } from '../src/backup/create-archive.ts';
import type { Entry, EntryError, ManifestLine } from '../src/backup/manifest/lines.ts';
import { readManifest } from '../src/backup/manifest/read.ts';
import { everything } from '../src/backup/select/selection.ts';
import { memorySink, memorySource } from './backup-maker.ts';

/** An archive and its manifest, unencrypted and in memory, with what the manifest says. */

export interface Written {
  result: CreateResult;
  archive: Buffer;
  lines: ManifestLine[];
  entries: Entry[];
  errors: EntryError[];
}

export const writeBackup = async (sources: readonly string[], more: Partial<CreateOptions> = {}): Promise<Written> => {
  const archive = memorySink();
  const manifest = memorySink();
  const result = await createArchive({
    sources: sources.map((source) => Buffer.from(source, 'latin1')),
    select: everything,
    level: 1,
    recipients: [],
    archive: archive.sink,
    manifest: manifest.sink,
    header: { run_id: 'r' },
    clock: { now: () => 0 },
    ...more,
  });
  const source = memorySource(manifest.bytes());
  const lines: ManifestLine[] = [];
  for await (const line of readManifest(source.read(0, source.size), { identities: null })) lines.push(line);
  return {
    result,
    archive: archive.bytes(),
    lines,
    entries: lines.flatMap((line) => (line.type === 'entry' ? [line] : [])),
    errors: lines.flatMap((line) => (line.type === 'error' ? [line] : [])),
  };
};

export const temporaryFolder = (): string => {
  const folder = mkdtempSync(join(tmpdir(), 'aegis-backup-'));
  onTestFinished(() => rmSync(folder, { recursive: true }));
  return folder;
};

export const pathsOf = (entries: readonly { path: Buffer }[]): string[] =>
  entries.map(({ path }) => path.toString('latin1'));
/** As a list of errors shows them, below a folder. */
export const codesOf = (folder: string, errors: readonly { path: Buffer; code: string }[]): string[] =>
  errors.map(({ path, code }) => `${path.toString('latin1').slice(folder.length)}: ${code}`);

/** The same for the same name; does not pack. */
export const randomLike = (name: string, length: number): Buffer =>
  createCipheriv('aes-128-ctr', Buffer.alloc(16, name), Buffer.alloc(16)).update(Buffer.alloc(length));
