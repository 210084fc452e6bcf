import { createHash } from 'node:crypto';
import {
  closeSync,
  constants,
  fstatSync,
  fsyncSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { dirname } from 'node:path';
import { AegisError } from '@aegis/protocol/errors';
import type { Node } from '@aegis/protocol/nodes/node';
import { contextsPath } from '../contexts.ts';
import { makeFolders } from '../folders.ts';
import { plainText } from '../ui/plain-text.ts';

/** Nodes whose signatures this user believes, in `~/.config/aegis/known_nodes`: what comes back from a backup is measured by these keys, not
 *  by the server's word. A line for each: uid, name, key id, signing key, sealing key (or -). Whoever could write to it could have anything
 *  restored: a file that others can write to is refused. */

export interface KnownNode {
  uid: string;
  name: string;
  /** Hex SHA-256 of the signing key. */
  keyId: string;
  /** Raw bytes, base64. */
  publicKey: string;
  sealingKey: string | null;
}

/** In place of a node's: the control server backs up its own files, and signs them with the key that signs directives. */
export const SERVER_UID = '00000000-0000-0000-0000-000000000000';

type Env = Readonly<Record<string, string | undefined>>;

const LINE =
  /^([0-9a-f-]{36}) ([A-Za-z0-9][A-Za-z0-9._:-]{0,127}) ([0-9a-f]{64}) ([A-Za-z0-9+/]{43}=) (-|[A-Za-z0-9+/]{43}=)$/;
const MAX_BYTES = 64 * 1024 * 1024;
const HEAD = "# Nodes whose backups this user trusts; 'aegis nodes trust' adds them.\n";

export const knownNodesPath = (env: Env): string => {
  const contexts = contextsPath(env);
  if (contexts === null)
    throw new AegisError('config.invalid', 'There is no HOME to keep known nodes in. Set HOME or XDG_CONFIG_HOME.');
  return `${dirname(contexts)}/known_nodes`;
};

const invalid = (path: string, what: string): AegisError => new AegisError('config.invalid', `${path} ${what}`);
const reasonOf = (error: unknown): string => (error as NodeJS.ErrnoException).code ?? 'unknown reason';

const keyIdOf = (publicKey: string): string =>
  createHash('sha256').update(Buffer.from(publicKey, 'base64')).digest('hex');

/** @throws AegisError config.invalid */
export const readKnownNodes = (path: string): KnownNode[] => {
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch (error) {
    if (reasonOf(error) === 'ENOENT' || reasonOf(error) === 'ENOTDIR') return [];
    const what = reasonOf(error) === 'ELOOP' ? 'is a symbolic link' : `cannot be read (${reasonOf(error)})`;
    throw invalid(path, `${what}. Put a file of yours in its place.`);
  }
  try {
    const { mode, uid, size } = fstatSync(fd);
    if ((mode & constants.S_IFMT) !== constants.S_IFREG || size > MAX_BYTES)
      throw invalid(path, 'is no file that holds known nodes. Put a file of yours in its place.');
    if ((mode & 0o022) !== 0 || ![0, process.getuid?.()].includes(uid))
      throw invalid(path, `can be written by others, who could have anything restored. Run: chmod 600 ${path}`);
    return nodesOfText(readFileSync(fd, 'utf8'), path);
  } finally {
    closeSync(fd);
  }
};

/** @throws AegisError config.invalid */
export const nodesOfText = (text: string, path: string): KnownNode[] =>
  text.split('\n').flatMap((line, at) => nodeOfLine(line, at + 1, path));

const nodeOfLine = (line: string, number: number, path: string): KnownNode[] => {
  if (line.trim() === '' || line.startsWith('#')) return [];
  const [, uid = '', name = '', keyId = '', publicKey = '', sealing = '-'] = LINE.exec(line) ?? [];
  if (uid === '' || keyIdOf(publicKey) !== keyId)
    throw invalid(path, `line ${number} is no known node. Remove the line, and trust the node again.`);
  return [{ uid, name, keyId, publicKey, sealingKey: sealing === '-' ? null : sealing }];
};

/** Whole to a file beside it, and renamed. @throws AegisError config.invalid */
export const writeKnownNodes = (path: string, nodes: readonly KnownNode[]): void => {
  const lines = nodes.map(
    ({ uid, name, keyId, publicKey, sealingKey }) => `${uid} ${name} ${keyId} ${publicKey} ${sealingKey ?? '-'}\n`,
  );
  const base = dirname(dirname(path));
  const fresh = `${path}.${process.pid}.tmp`;
  const { O_WRONLY, O_CREAT, O_EXCL, O_NOFOLLOW } = constants;
  try {
    makeFolders(base, 'aegis');
    const fd = openSync(fresh, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600);
    try {
      writeFileSync(fd, HEAD + lines.join(''));
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
    renameSync(fresh, path);
  } catch (error) {
    rmSync(fresh, { force: true });
    throw invalid(path, `cannot be written (${reasonOf(error)}). Set HOME or XDG_CONFIG_HOME to a folder of yours.`);
  }
};

/** A node as the server shows it, once its key is what its key id says.
 *  @throws AegisError backups.untrusted_node */
export const offeredNode = ({ uid, name, key_id, public_key, sealing_key }: Node): KnownNode => {
  if (typeof public_key !== 'string' || key_id === null)
    throw new AegisError(
      'backups.untrusted_node',
      `${plainText(name)} has no key of its own (a keyless poller, or a server of an older release): it signs no backups.`,
    );
  const node = { uid, name, keyId: key_id, publicKey: public_key, sealingKey: sealing_key ?? null };
  if (!LINE.test(`${uid} ${name} ${key_id} ${public_key} ${sealing_key ?? '-'}`) || keyIdOf(public_key) !== key_id)
    throw new AegisError(
      'backups.untrusted_node',
      `What the server says of the node's key does not fit together: it is not trusted. Find out who answers there.`,
    );
  return node;
};

/** A server that is asked for a node answers with that one. @throws AegisError backups.untrusted_node */
export const refuseOtherNode = (asked: string, { name, uid }: Pick<Node, 'name' | 'uid'>): void => {
  if (asked === name || asked.toLowerCase() === uid) return;
  throw new AegisError(
    'backups.untrusted_node',
    `The server answers with the node ${plainText(name)}, and ${plainText(asked)} was asked for: it is not trusted. Find out who answers there.`,
  );
};

/** The node behind a key, if this user trusts it. @throws AegisError backups.untrusted_node */
export const trustedNode = (
  known: readonly KnownNode[],
  { node, node_uid, node_key }: { node: string; node_uid: string | null; node_key: string | null },
): KnownNode => {
  const wanted = node_uid ?? SERVER_UID;
  const found = known.find(({ uid, keyId }) => keyId === node_key && uid === wanted);
  if (found) return found;
  const name = plainText(node);
  const other = known.find(({ uid }) => uid === wanted);
  const command = `aegis nodes trust ${node_uid === null ? '--control-server' : name}`;
  throw new AegisError(
    'backups.untrusted_node',
    other
      ? `This backup claims to be of ${name}, with another key than the one that you trust (${other.keyId.slice(0, 16)}…): it is not used. Find out who made it.`
      : `You do not trust ${node_uid === null ? 'the control server' : `the node ${name}`} yet, whose signature would vouch for this backup: compare its key and run '${command}'.`,
    { details: { node_uid, node_key } },
  );
};
