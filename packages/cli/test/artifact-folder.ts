import { execFileSync, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type BuiltCli, builtCli, type Said } from './cli-process.ts';

/** The CLI in a folder of its own, with an artifact made from a template and built, as its author would have it. */
export interface ArtifactFolder extends Disposable {
  cli: BuiltCli;
  folder: string;
  at(name: string): string;
  /** Runs `aegis …` in the folder; hexadecimal digests are as they are. */
  aegis(args: readonly string[], more?: { env?: Record<string, string>; stdin?: string }): Promise<Said>;
  /** `init` and `make`. */
  build(name: string, kind?: string): Promise<void>;
  edit(file: string, change: (manifest: Record<string, unknown>) => void): void;
  /** Of a file in the folder. */
  sha256(name: string): string;
  /** `NAME.pub` and `NAME.key`, by the stock minisign, without a password. */
  newKey(name: string): void;
}

/** The loader, as an installation has it beside the bundle. */
const LOADER = join(import.meta.dirname, '../../bpf-loader/build/Release');

export const artifactFolder = async (): Promise<ArtifactFolder> => {
  const cli = await builtCli();
  const folder = mkdtempSync(join(tmpdir(), 'aegis-artifacts-'));
  const at = (name: string) => join(folder, name);
  const aegis: ArtifactFolder['aegis'] = (args, { env = {}, stdin = '' } = {}) =>
    cli.text(args, { env: { AEGIS_NATIVE_DIR: LOADER, ...env }, stdin, cwd: folder });
  return {
    cli,
    folder,
    at,
    aegis,
    build: async (name, kind = 'tc') => {
      const { code, stderr } = await aegis(['artifacts', 'init', name, '--kind', kind]);
      if (code !== 0) throw new Error(stderr);
      make(at(name));
    },
    edit: (file, change) => {
      const manifest = JSON.parse(readFileSync(at(file), 'utf8')) as Record<string, unknown>;
      change(manifest);
      writeFileSync(at(file), JSON.stringify(manifest));
    },
    sha256: (name) =>
      createHash('sha256')
        .update(readFileSync(at(name)))
        .digest('hex'),
    newKey: (name) =>
      void execFileSync('minisign', ['-G', '-W', '-p', at(`${name}.pub`), '-s', at(`${name}.key`)], {
        encoding: 'utf8',
      }),
    [Symbol.dispose]: () => {
      rmSync(folder, { recursive: true, force: true });
      cli[Symbol.dispose]();
    },
  };
};

/** What `packedFolder` packed. */
export const BUNDLE = 'block-icmp-1.0.0.tar.zst';

/** A folder in which `block-icmp` is built and packed. */
export const packedFolder = async (): Promise<ArtifactFolder> => {
  const author = await artifactFolder();
  await author.build('block-icmp');
  const { code, stderr } = await author.aegis(['artifacts', 'pack', 'block-icmp']);
  if (code !== 0 || stderr !== '') throw new Error(`packing failed: ${stderr}`);
  return author;
};

export const make = (folder: string): void => {
  const { status, stdout, stderr, error } = spawnSync('make', ['-s', '-C', folder], { encoding: 'utf8' });
  if (error || status !== 0)
    throw new Error(`building needs make, clang and libbpf-dev ('bin/setup --test' brings them): ${stdout}${stderr}`);
  if (stdout + stderr !== '') throw new Error(`the compiler warns: ${stdout}${stderr}`);
};
