import { accessSync, constants, readFileSync } from 'node:fs';
import { arch, cpus, hostname, release, totalmem, type } from 'node:os';
import { join } from 'node:path';
import type { Selectable } from '@aegis/protocol/commands/selector';
import type { Attrs } from '@aegis/protocol/nodes/node';
import { VERSION } from '@aegis/protocol/version';

/** What this machine says of itself at enrolment, and which tools commands may count on. */

export interface NodeFacts {
  attrs: Attrs;
  capabilities: string[];
  tools: { packageManager: 'apt' | 'dnf' | null; compose: readonly string[] };
}

const BIN = ['/usr/local/sbin', '/usr/local/bin', '/usr/sbin', '/usr/bin', '/sbin', '/bin'];
const COMPOSE_PLUGINS = [
  '/usr/local/lib/docker/cli-plugins',
  '/usr/libexec/docker/cli-plugins',
  '/usr/lib/docker/cli-plugins',
];

export const gatherFacts = (root = '/'): NodeFacts => {
  const has = (name: string, folders = BIN): boolean => folders.some((folder) => executable(join(root, folder, name)));
  const engine = has('docker') ? 'docker' : has('podman') ? 'podman' : null;
  const packageManager = has('apt-get') ? 'apt' : has('dnf') ? 'dnf' : null;
  const plugin = has('docker-compose', COMPOSE_PLUGINS);
  const compose = has('docker') && (plugin || has('docker-compose'));
  const os = osRelease(root);
  return {
    attrs: {
      os: os.PRETTY_NAME ?? type(),
      os_id: os.ID ?? 'linux',
      os_version: os.VERSION_ID ?? '',
      kernel: release(),
      arch: arch(),
      hostname: hostname(),
      cpus: cpus().length,
      memory_bytes: totalmem(),
      container_engine: engine,
      version: VERSION,
    },
    capabilities: [
      'commands',
      ...(packageManager ? [packageManager] : []),
      ...(engine ? [engine] : []),
      ...(compose ? ['compose'] : []),
    ],
    tools: { packageManager, compose: plugin || !has('docker-compose') ? ['docker', 'compose'] : ['docker-compose'] },
  };
};

/** What selectors of signed directives are judged by: this node's own files and what it finds on itself, never what a server says of it. */
export const ownSelf = (
  { name, uid }: { name: string; uid: string },
  { site, labels }: { site?: string | undefined; labels: Readonly<Record<string, string>> },
  { attrs, capabilities }: Pick<NodeFacts, 'attrs' | 'capabilities'>,
): Selectable => ({
  name,
  uid,
  site: site ?? null,
  labels,
  capabilities,
  os: textOf(attrs.os),
  container_engine: textOf(attrs.container_engine),
  status: '',
});
const textOf = (value: unknown): string | null => (typeof value === 'string' ? value : null);

const executable = (path: string): boolean => {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false; // not there, or not for us
  }
};

/** os-release(5), without the quotes. */
const osRelease = (root: string): Record<string, string> => {
  try {
    const text = readFileSync(join(root, 'etc/os-release'), 'utf8').slice(0, 65_536);
    return Object.fromEntries(
      [...text.matchAll(/^([A-Z_]+)=(?:"([^"\n]*)"|'([^'\n]*)'|([^\n]*))$/gm)].map(([, key, a, b, c]) => [
        key,
        (a ?? b ?? c ?? '').slice(0, 256),
      ]),
    );
  } catch {
    return {}; // a minimal system has none
  }
};
