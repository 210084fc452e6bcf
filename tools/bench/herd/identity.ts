import { createHash, createPrivateKey } from 'node:crypto';
import { join } from 'node:path';
import { type KeyPair, keyPairFrom } from '@aegis/protocol/access/keys';
import { enrolledRow } from '../../../packages/server/src/nodes/enrolled-row.ts';
import { nodesRepository } from '../../../packages/server/src/nodes/repository.ts';
import { openServerStorage, requireFleetKeys } from '../../../packages/server/src/offline.ts';

/** herd: thousands of simulated nodes on the real channel, in a few processes of their own. Here: who they are. Each is made from its number
 *  alone, so that any process can be it; their rows are written by the server's own repository, because ten thousand enrolments take minutes. */

export interface HerdNodeIdentity {
  uid: string;
  name: string;
  key: KeyPair;
}

/** RFC 8410: what stands before the 32 bytes of an Ed25519 private key. */
const PKCS8 = Buffer.from('302e020100300506032b657004220420', 'hex');

export const herdNode = (nth: number): HerdNodeIdentity => {
  const secret = createHash('sha256').update(`herd ${nth}`).digest();
  return {
    uid: `01900000-0000-7000-8000-${nth.toString(16).padStart(12, '0')}`,
    name: `herd-${nth}`,
    key: keyPairFrom(createPrivateKey({ key: Buffer.concat([PKCS8, secret]), format: 'der', type: 'pkcs8' })),
  };
};

/** What a node of this server must know to connect. */
export interface HerdServer {
  host: string;
  port: number;
  tls: boolean;
  fleet: string;
  /** Hexadecimal. */
  serverKey: string;
}

/** Writes the rows of the first `count` nodes beside the running server, or before it starts. */
export const enrolHerd = async (
  dataDir: string,
  count: number,
  databaseUrl?: string,
): Promise<Pick<HerdServer, 'fleet' | 'serverKey'>> => {
  const now = Date.now();
  const keys = requireFleetKeys(dataDir, now);
  const storage = await openServerStorage({ dataDir, keys, databaseUrl });
  try {
    const repository = nodesRepository(storage, async () => undefined);
    await storage.write('herd.enrol', async (tx) => {
      for (let nth = 0; nth < count; nth++) {
        const { uid, name, key } = herdNode(nth);
        const init = { host_id: name, public_key: key.publicRaw.toString('base64'), labels: { of: 'herd' } };
        await repository.insert(tx, { ...enrolledRow(uid, init, null, now), last_seen: null });
      }
    });
  } finally {
    await storage.close();
  }
  return { fleet: keys.fleet, serverKey: keys.server.publicRaw.toString('hex') };
};

export const serverDataOf = (fleetFolder: string): string => join(fleetFolder, 'server');
