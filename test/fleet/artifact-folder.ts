import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { NamespaceFleet } from './namespace-fleet.ts';

/** An artifact as its author works on it: made from the template, built, packed, signed and pushed by the real CLI. */
export interface ArtifactFolder {
  readonly name: string;
  readonly folder: string;
  /** Changes aegis.json. */
  edit(change: (manifest: Record<string, unknown>) => void): void;
  /** Changes the C source, and builds. */
  source(change: (text: string) => string): void;
  /** pack → sign → push as this version. @returns the bundle's path */
  publish(version: string): string;
}

export interface SigningKey {
  secret: string;
  public: string;
}

/** A key that the fleet trusts for artifacts. */
export const trustedKey = (fleet: NamespaceFleet, name = 'release'): SigningKey => {
  const key = { secret: join(fleet.folder, `${name}.key`), public: join(fleet.folder, `${name}.pub`) };
  fleet.aegis('access', 'keys', 'create', name, '--out', fleet.folder, '--no-password');
  fleet.aegis('access', 'keys', 'add', key.public, '--usage', 'artifacts', '--name', name);
  return key;
};

export const artifactFolder = (
  fleet: NamespaceFleet,
  key: SigningKey,
  name: string,
  kind: 'tc' | 'xdp' | 'cgroup_skb' | 'tracepoint',
): ArtifactFolder => {
  const folder = join(fleet.folder, name);
  fleet.aegis('artifacts', 'init', name, '--dir', folder, '--kind', kind);
  const manifest = join(folder, 'aegis.json');
  const source = join(folder, `${name.replaceAll('-', '_')}.bpf.c`);
  const edit: ArtifactFolder['edit'] = (change) => {
    const value = JSON.parse(readFileSync(manifest, 'utf8')) as Record<string, unknown>;
    change(value);
    writeFileSync(manifest, JSON.stringify(value));
  };
  const build = () => execFileSync('make', ['--silent', '-C', folder], { stdio: ['ignore', 'ignore', 'pipe'] });
  build();
  return {
    name,
    folder,
    edit,
    source: (change) => {
      writeFileSync(source, change(readFileSync(source, 'utf8')));
      build();
    },
    publish: (version) => {
      edit((value) => {
        value.version = version;
      });
      const bundle = join(folder, `${name}-${version}.tar.zst`);
      fleet.aegis('artifacts', 'pack', folder, '-o', bundle);
      fleet.aegis('artifacts', 'sign', bundle, '--key', key.secret);
      fleet.aegis('artifacts', 'push', bundle);
      return bundle;
    },
  };
};
