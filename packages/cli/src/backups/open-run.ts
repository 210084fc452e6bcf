import { createPublicKey } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import type { ByteSource } from '@aegis/archive/backup/bytes';
import type { Backup } from '@aegis/archive/backup/restore/backup';
import { openBackup } from '@aegis/archive/backup/restore/open';
import { keyIdOf, rawPublicKey } from '@aegis/protocol/access/keys';
import { objectNames, type Run, type RunObject } from '@aegis/protocol/backups/run';
import { AegisError } from '@aegis/protocol/errors';
import type { Api } from '../api/client.ts';
import { routes } from '../api/routes.ts';
import { plainText } from '../ui/plain-text.ts';
import { fileSource } from './folder-source.ts';
import { identitiesIn } from './identities.ts';
import { type KnownNode, nodesOfText, trustedNode } from './known-nodes.ts';
import { linkedSource } from './linked-source.ts';

/** A run opened on this machine, from its storage through links, or from a folder without any server. */

export interface OpenedRun extends AsyncDisposable {
  backup: Backup;
  /** As the node signed it. */
  runId: string | null;
  /** The node that vouches for it, as this user knows it; null where the key came from a file. */
  node: KnownNode | null;
}

export interface OpenWith {
  /** Files of age identities. */
  identities: readonly string[];
  known: readonly KnownNode[];
  /** Files with public keys, or key ids of known nodes: then no other counts. */
  nodeKeys: readonly string[];
  signal?: AbortSignal;
}

const MAX_STATEMENT_BYTES = 1024 * 1024;

/** @param asked as the operator named it: what the server makes of `latest:` is measured by that
 *  @throws AegisError backups.untrusted_node, backups.bad_statement, backups.no_link, backups.destination_failed, … */
export const openLinked = async (api: Api, run: Run, asked: string, options: OpenWith): Promise<OpenedRun> => {
  const keys = keysOf(options);
  const node = keys.size > 0 ? null : trustedNode(options.known, run);
  refuseOther(run, node, asked);
  await using stack = new AsyncDisposableStack();
  const params = { id: run.run_id };
  let links = (await api.call(routes.runLinks, { params })).links;
  const ca = await authorityOf(api, run);
  const source = async (object: RunObject): Promise<ByteSource> => {
    const url = async (anew: boolean): Promise<string> => {
      if (anew) links = (await api.call(routes.runLinks, { params })).links;
      return links.find((link) => link.object === object)?.url ?? '';
    };
    return stack.use(await linkedSource({ url, ca }, options.signal));
  };
  const [archive, manifest, statement] = await Promise.all([
    source('archive'),
    source('manifest'),
    source('statement'),
  ]);
  const backup = stack.use(
    await openBackup({
      archive,
      manifest,
      statement: await wholeOf(statement),
      trustedNodeKeys: node ? keyMap([node]) : keys,
      identities: identitiesIn(options.identities),
      spoolDir: tmpdir(),
      ...(options.signal ? { signal: options.signal } : {}),
    }),
  );
  refuseMixed(backup, run);
  const rest = stack.move();
  return { backup, runId: runIdOf(backup), node, [Symbol.asyncDispose]: () => rest.disposeAsync() };
};

/** @throws AegisError as `openLinked`, and backups.unknown_object */
export const openFolder = async (folder: string, options: OpenWith): Promise<OpenedRun> => {
  await using stack = new AsyncDisposableStack();
  const source = (object: RunObject): ByteSource => {
    const names = new Set([objectNames(false)[object], objectNames(true)[object]]);
    return stack.use(fileSource(folder, [...names]));
  };
  const keys = keysOf(options);
  const statement = await wholeOf(source('statement'));
  const backup = stack.use(
    await openBackup({
      archive: source('archive'),
      manifest: source('manifest'),
      statement,
      trustedNodeKeys: keys.size > 0 ? keys : keyMap(options.known),
      identities: identitiesIn(options.identities),
      spoolDir: tmpdir(),
      ...(options.signal ? { signal: options.signal } : {}),
    }),
  );
  const rest = stack.move();
  const node = options.known.find(({ keyId }) => keyId === backup.signedBy) ?? null;
  return { backup, runId: runIdOf(backup), node, [Symbol.asyncDispose]: () => rest.disposeAsync() };
};

const keyMap = (nodes: readonly KnownNode[]): Map<string, Buffer> =>
  new Map(nodes.map(({ keyId, publicKey }) => [keyId, Buffer.from(publicKey, 'base64')]));

/** Small things, read whole. */
const wholeOf = async (source: ByteSource): Promise<Buffer> => {
  if (source.size > MAX_STATEMENT_BYTES)
    throw new AegisError(
      'backups.bad_statement',
      'The statement of this backup is far too large to be one: it is refused.',
    );
  const pieces: Buffer[] = [];
  for await (const piece of source.read(0, source.size)) pieces.push(piece);
  return Buffer.concat(pieces);
};

/** A server may not answer with another configuration's or node's run than was asked for. */
const refuseOther = (run: Run, node: KnownNode | null, asked: string): void => {
  const latest = /^latest:([^@]+)(?:@(.+))?$/.exec(asked);
  const [, config, host] = latest ?? [];
  const wrong =
    latest === null
      ? !run.run_id.startsWith(asked.toLowerCase())
      : ![run.config, run.config_id].includes(config ?? '') ||
        (host !== undefined && ![node?.name ?? run.node, run.node_uid].includes(host));
  if (!wrong) return;
  throw new AegisError(
    'backups.bad_statement',
    `The server answers with another backup (${plainText(run.config)} of ${plainText(run.node)}) than '${plainText(asked)}': it is not used. Find out who answers there.`,
  );
};

const signedFields = ({ statement, header }: Backup): Readonly<Record<string, unknown>> => ({
  ...header,
  ...statement,
});
const runIdOf = (backup: Backup): string | null => {
  const { run_id } = signedFields(backup);
  return typeof run_id === 'string' ? run_id : null;
};

/** What the node signed belongs to this run and no other. */
const refuseMixed = (backup: Backup, run: Run): void => {
  const said = signedFields(backup);
  const same = (field: 'config_id' | 'node_uid'): boolean => said[field] === undefined || said[field] === run[field];
  if (said.run_id === run.run_id && same('config_id') && same('node_uid')) return;
  throw new AegisError(
    'backups.bad_statement',
    `What lies there as run ${run.run_id} is signed as another one (${plainText(String(said.run_id))}): it is not used. Find out who put it there.`,
  );
};

/** The certificate authority of the configuration's destination, where it has one of its own. */
const authorityOf = async (api: Api, run: Run): Promise<string | null> => {
  try {
    const { destination } = await api.call(routes.showConfig, { params: { id: run.config_id } });
    return destination.kind === 's3' ? (destination.ca ?? null) : null;
  } catch (error) {
    if (error instanceof AegisError && error.code === 'backups.unknown_config') return null; // deleted; its runs stay
    throw error;
  }
};

const keysOf = ({ nodeKeys, known }: OpenWith): Map<string, Buffer> =>
  new Map(nodeKeys.flatMap((text) => [...(/^[0-9a-f]{64}$/i.test(text) ? keyById(known, text) : keyInFile(text))]));

const keyById = (known: readonly KnownNode[], text: string): Map<string, Buffer> => {
  const found = keyMap(known.filter(({ keyId }) => keyId === text.toLowerCase()));
  if (found.size > 0) return found;
  throw new AegisError(
    'backups.untrusted_node',
    `No node that you trust has the key ${text}: 'aegis nodes trust NODE' adds it, or name a file with the key itself.`,
  );
};

/** A known_nodes file, a PEM, or the 32 raw bytes as base64. @throws AegisError cli.usage */
const keyInFile = (path: string): Map<string, Buffer> => {
  let text: string;
  try {
    text = readFileSync(path, 'utf8').slice(0, 1024 * 1024);
  } catch (error) {
    throw new AegisError(
      'cli.usage',
      `The key file ${path} cannot be read (${(error as NodeJS.ErrnoException).code ?? 'unknown reason'}). Name a file with a node's public key.`,
    );
  }
  const base64 = /^\s*([A-Za-z0-9+/]{43}=)\s*$/.exec(text)?.[1];
  try {
    const raw = base64
      ? Buffer.from(base64, 'base64')
      : text.includes('-----BEGIN PUBLIC KEY-----')
        ? rawOfPem(text)
        : null;
    const keys = raw ? new Map([[keyIdOf(raw), raw]]) : keyMap(nodesOfText(text, path));
    if (keys.size > 0) return keys;
  } catch {
    // said below, whatever it was
  }
  throw new AegisError(
    'cli.usage',
    `${path} holds no node's public key: it is PEM, base64 of 32 bytes, or lines of ~/.config/aegis/known_nodes.`,
  );
};

const rawOfPem = (text: string): Buffer => {
  const key = createPublicKey(text);
  if (key.asymmetricKeyType !== 'ed25519') throw new RangeError('not Ed25519');
  return rawPublicKey(key);
};
