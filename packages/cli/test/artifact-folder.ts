import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type BuiltCli, builtCli } from './cli-process.ts';

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
}
export interface Said {
  code: number | null;
  stdout: string;
  stderr: string;
}

/** The loader, as an installation has it beside the bundle. */
const LOADER = join(import.meta.dirname, '../../bpf-loader/build/Release');

export const artifactFolder = async (): Promise<ArtifactFolder> => {
  const cli = await builtCli();
  const folder = mkdtempSync(join(tmpdir(), 'aegis-artifacts-'));
  const at = (name: string) => join(folder, name);
  const aegis: ArtifactFolder['aegis'] = async (args, { env = {}, stdin = '' } = {}) => {
    const { code, stdout, stderr } = await cli.run(args, {
      env: { AEGIS_NATIVE_DIR: LOADER, ...env },
      stdin,
      cwd: folder,
    });
    return { code, stdout: String(stdout), stderr };
  };
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
    [Symbol.dispose]: () => {
      rmSync(folder, { recursive: true, force: true });
      cli[Symbol.dispose]();
    },
  };
};

export const make = (folder: string): void => {
  const { status, stdout, stderr, error } = spawnSync('make', ['-s', '-C', folder], { encoding: 'utf8' });
  if (error || status !== 0)
    throw new Error(`building needs make, clang and libbpf-dev ('bin/setup --test' brings them): ${stdout}${stderr}`);
  if (stdout + stderr !== '') throw new Error(`the compiler warns: ${stdout}${stderr}`);
};
