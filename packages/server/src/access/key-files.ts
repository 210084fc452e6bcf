import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { generateKeyPair, type KeyPair, keyPairFromPem, privateKeyToPem } from '@aegis/protocol/access/keys';
import { keysFor, rootKeyIds, type TrustBundle, type TrustRoot } from '@aegis/protocol/access/trust-bundle';
import { AegisError } from '@aegis/protocol/errors';
import type { FaultPoints } from '@aegis/protocol/fault-points';
import { createPrivateFile, readPrivateFile } from './private-files.ts';

/** The private keys in `keys/`: of the server, which signs directives, and of the root where it is kept here. The first ones are server.pem
 *  and root.pem, later ones carry the beginning of their key id. Which of them counts, the trust bundle says, never a file's name. */

type Role = 'server' | 'root';
const NAMES: Record<Role, RegExp> = { server: /^server(-[0-9a-f]{16})?\.pem$/, root: /^root(-[0-9a-f]{16})?\.pem$/ };
const folderOf = (dataDir: string): string => join(dataDir, 'keys');
/** As many as one directory ever has, and far more than a fleet rotates. */
const MAX_FILES = 1000;

interface KeyFile {
  name: string;
  /** Null for one that is damaged. */
  pair: KeyPair | null;
}

/** @throws AegisError config.invalid for one that others may read */
const filesOf = (dataDir: string, role: Role): KeyFile[] =>
  namesIn(folderOf(dataDir))
    .filter((name) => NAMES[role].test(name))
    .sort()
    .slice(0, MAX_FILES)
    .flatMap((name) => {
      const pem = readPrivateFile(join(folderOf(dataDir), name));
      return pem === null ? [] : [{ name, pair: pairIn(pem) }];
    });

const pairIn = (pem: string): KeyPair | null => {
  try {
    return keyPairFromPem(pem);
  } catch {
    return null; // without the cause, which could quote the key
  }
};

/** The key that this server signs with: the newest that the bundle lets serve, rather than one whose end is set.
 *  @throws AegisError config.invalid when there is none */
export const serverKeyIn = (dataDir: string, bundle: TrustBundle, nowMs: number): KeyPair => {
  const files = filesOf(dataDir, 'server');
  const serving = [...keysFor(bundle, 'serve', nowMs).keys()];
  const ends = new Map(bundle.keys.map(({ keyid, until }) => [keyid, until !== undefined]));
  const inOrder = [...serving.filter((id) => ends.get(id)), ...serving.filter((id) => !ends.get(id))].reverse();
  for (const id of inOrder) {
    const found = files.find(({ pair }) => pair?.keyId === id);
    if (found?.pair) return found.pair;
  }
  const path = join(folderOf(dataDir), 'server.pem');
  throw new AegisError(
    'config.invalid',
    files.length === 0
      ? `${path} is missing. Restore it from a backup of the data directory.`
      : `${path} is not the key that the fleet's trust bundle names, and no other in that folder is. Restore the folder from a backup of the data directory.`,
  );
};

/** A private key for the next version of the bundle: one that an earlier attempt left, or a new one. Durable when it returns. */
export const pendingKey = (
  dataDir: string,
  role: Role,
  isListed: (keyId: string) => boolean,
  faults: FaultPoints,
): KeyPair => {
  const left = filesOf(dataDir, role).find(({ name, pair }) => pair && name.includes('-') && !isListed(pair.keyId));
  if (left?.pair) return left.pair;
  const made = generateKeyPair();
  faults.at(`server.${role}-key-before-file`);
  createPrivateFile(
    join(folderOf(dataDir), `${role}-${made.keyId.slice(0, 16)}.pem`),
    privateKeyToPem(made.privateKey),
  );
  faults.at(`server.${role}-key-after-file`);
  return made;
};

/** Those of the root's keys that are here; read for the moment of a change.
 *  @throws AegisError config.invalid for one that others may read */
export const rootKeysIn = (dataDir: string, root: TrustRoot): { pairs: KeyPair[]; isFileHere: boolean } => {
  const files = filesOf(dataDir, 'root');
  const ids = new Set(rootKeyIds(root));
  const pairs = new Map(
    files.flatMap(({ pair }) => (pair && ids.has(pair.keyId) ? [[pair.keyId, pair] as const] : [])),
  );
  return { pairs: [...pairs.values()], isFileHere: files.length > 0 };
};

const namesIn = (folder: string): string[] => {
  try {
    return readdirSync(folder);
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return [];
    throw error;
  }
};
