import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type NamespaceFleet, startNamespaceFleet } from '../../../test/fleet/namespace-fleet.ts';
import type { Outcome } from '../../../test/fleet/namespaces.ts';
import { make } from './artifact-folder.ts';

/** Server and daemon in a network namespace over the real kernel, and an author there whose key the fleet trusts. */
export interface NodeStage extends AsyncDisposable {
  fleet: NamespaceFleet;
  at(name: string): string;
  /** Packs, signs and pushes what was made last. */
  release(name: string, version: string): void;
  /** On the node, without the server. */
  local(...args: string[]): Outcome;
}

/** @param artifacts names and the kinds of their templates: version 1.0.0 of each is pushed */
export const nodeStage = async (artifacts: Readonly<Record<string, string>>): Promise<NodeStage> => {
  const fleet = await startNamespaceFleet({ daemonFlags: ['--set', 'kernel_report_delay_sec=0'] });
  const at = (name: string) => join(fleet.folder, name);
  const release = (name: string, version: string): void => {
    const manifest = JSON.parse(readFileSync(at(`${name}/aegis.json`), 'utf8')) as {
      programs: { attach: { interface?: string } }[];
    };
    for (const { attach } of manifest.programs) if (attach.interface !== undefined) attach.interface = 'up*';
    writeFileSync(at(`${name}/aegis.json`), JSON.stringify({ ...manifest, version }));
    const bundle = at(`${name}-${version}.tar.zst`);
    fleet.aegis('artifacts', 'pack', at(name), '-o', bundle);
    fleet.aegis('artifacts', 'sign', bundle, '--key', at('release.key'));
    fleet.aegis('artifacts', 'push', bundle);
  };
  try {
    fleet.aegis('access', 'keys', 'create', 'release', '--no-password', '--out', fleet.folder);
    fleet.aegis('access', 'keys', 'add', at('release.pub'), '--usage', 'artifacts');
    for (const [name, kind] of Object.entries(artifacts)) {
      fleet.aegis('artifacts', 'init', name, '--kind', kind, '--dir', at(name));
      make(at(name));
      release(name, '1.0.0');
    }
  } catch (error) {
    await fleet[Symbol.asyncDispose]();
    throw error;
  }
  return {
    fleet,
    at,
    release,
    local: (...args) => fleet.tryAegis('daemon', ...args, '--data-dir', fleet.node.dataDir),
    [Symbol.asyncDispose]: () => fleet[Symbol.asyncDispose](),
  };
};
