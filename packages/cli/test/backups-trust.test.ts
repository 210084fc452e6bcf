import { createHash, randomBytes } from 'node:crypto';
import { chmodSync, mkdtempSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseIdentities } from '@aegis/archive/backup/age/keys';
import { generateKeyPair } from '@aegis/protocol/access/keys';
import { signTrustBundle } from '@aegis/protocol/access/trust-bundle';
import type { Node } from '@aegis/protocol/nodes/node';
import { expect, test } from 'vitest';
import { knownNodesPath, readKnownNodes, trustedNode, writeKnownNodes } from '../src/backups/known-nodes.ts';
import { cliOfFile, refused } from './cli-process.ts';
import { reply, scriptedServer } from './scripted-server.ts';

/** Whose word counts for a restore, and the keys that open one. */

const cli = cliOfFile();

const keyOf = (fill: number) => {
  const raw = Buffer.alloc(32, fill);
  return { publicKey: raw.toString('base64'), keyId: createHash('sha256').update(raw).digest('hex') };
};
const UID = '01981c2e-7f3a-7bd2-a4c1-900000000001';
const SEALING = Buffer.alloc(32, 9).toString('base64');
const nodeOf = (fill: number, more: Partial<Node> = {}): Node => ({
  uid: UID,
  agent_id: 'web-1',
  name: 'web-1',
  state: 'active',
  status: 'online',
  maintenance: false,
  keyless: false,
  key_id: keyOf(fill).keyId,
  public_key: keyOf(fill).publicKey,
  sealing_key: SEALING,
  site: null,
  labels: {},
  attrs: {},
  capabilities: [],
  version: null,
  os: null,
  kernel: null,
  container_engine: null,
  last_seen: null,
  created_at: '',
  updated_at: '',
  ...more,
});

const withNode = async (node: () => Node) => {
  const home = mkdtempSync(join(tmpdir(), 'aegis-trust-'));
  const server = await scriptedServer({ 'GET /api/v1/agents/web-1': (_, response) => reply(response, node()) });
  const env = { HOME: home, AEGIS_SERVER: server.url };
  return {
    path: join(home, '.config/aegis/known_nodes'),
    trust: (...args: string[]) => cli.text(['nodes', 'trust', ...args], { env }),
    [Symbol.asyncDispose]: async () => {
      await server[Symbol.asyncDispose]();
      rmSync(home, { recursive: true });
    },
  };
};

test('a node is pinned once, for its owner alone, and another key never takes its place', async () => {
  let node = nodeOf(1);
  await using stage = await withNode(() => node);
  const { keyId, publicKey } = keyOf(1);
  expect(await stage.trust('web-1')).toEqual(
    refused('Without a terminal nobody can be asked: give --key-id, or --accept-new.'),
  );
  expect(await stage.trust()).toEqual({
    code: 0,
    stdout: 'NODE  UID  KEY ID\n',
    stderr: "aegis: nobody is trusted yet. 'aegis nodes trust NODE' adds one.\n",
  });
  expect(await stage.trust('web-1', '--accept-new')).toEqual({
    code: 0,
    stdout: `web-1 is trusted: ${keyId}\n`,
    stderr: '',
  });
  expect(readFileSync(stage.path, 'utf8')).toBe(
    `# Nodes whose backups this user trusts; 'aegis nodes trust' adds them.\n${UID} web-1 ${keyId} ${publicKey} ${SEALING}\n`,
  );
  expect(statSync(stage.path).mode & 0o777).toBe(0o600);
  expect(await stage.trust('web-1')).toMatchObject({ code: 0, stdout: `web-1 is trusted already: ${keyId}\n` });
  node = nodeOf(2);
  expect(await stage.trust('web-1', '--accept-new')).toEqual(
    refused(
      `web-1 is known with another key (${keyId}), and the server now says ${keyOf(2).keyId}: it is not trusted. A node never changes its key; find out who answers there.`,
      1,
    ),
  );
  node = nodeOf(1, { sealing_key: Buffer.alloc(32, 8).toString('base64') });
  expect(await stage.trust('web-1', '--accept-new')).toEqual(
    refused(
      'web-1 is known with another sealing key: what is sealed for it would go to somebody else. Find out who answers there.',
      1,
    ),
  );
  node = nodeOf(3, { uid: '01981c2e-7f3a-7bd2-a4c1-900000000002' });
  expect(await stage.trust('web-1', '--accept-new')).toEqual(
    refused(
      `Another node called web-1 is known (${keyId}): this one is not simply new. Compare its key, and give --key-id ${keyOf(3).keyId}.`,
      1,
    ),
  );
  expect(await stage.trust('web-1', '--key-id', keyId)).toEqual(
    refused(
      `web-1 has the key ${keyOf(3).keyId}, not the one that was given: it is not trusted. Find out who answers there.`,
      1,
    ),
  );
  expect(await stage.trust('web-1', '--key-id', keyOf(3).keyId.toUpperCase())).toMatchObject({ code: 0 });
  expect(JSON.parse((await stage.trust('--json')).stdout).nodes.map((one: { uid: string }) => one.uid)).toEqual([
    UID,
    node.uid,
  ]);
  expect(await stage.trust('web-1', '--remove')).toMatchObject({
    code: 0,
    stdout: `web-1 is no longer trusted: ${keyId}\nweb-1 is no longer trusted: ${keyOf(3).keyId}\n`,
  });
});

test('a key that is not what its id says, and a node without one', async () => {
  let node = nodeOf(1, { key_id: keyOf(2).keyId });
  await using stage = await withNode(() => node);
  const odd =
    "What the server says of the node's key does not fit together: it is not trusted. Find out who answers there.";
  expect(await stage.trust('web-1', '--accept-new')).toEqual(refused(odd, 1));
  node = nodeOf(1, { name: 'web-1\nevil line' });
  expect(await stage.trust('web-1', '--accept-new')).toEqual(refused(odd, 1));
  node = nodeOf(1, { name: 'db-1' });
  expect(await stage.trust('web-1', '--accept-new')).toEqual(
    refused(
      'The server answers with the node db-1, and web-1 was asked for: it is not trusted. Find out who answers there.',
      1,
    ),
  );
  node = nodeOf(1, { key_id: null, public_key: null, keyless: true });
  expect(await stage.trust('web-1', '--accept-new')).toEqual(
    refused('web-1 has no key of its own (a keyless poller, or a server of an older release): it signs no backups.', 1),
  );
});

test('the file: whoever else could write to it is refused', () => {
  const folder = mkdtempSync(join(tmpdir(), 'aegis-known-'));
  const path = join(folder, 'aegis', 'known_nodes');
  expect(readKnownNodes(path)).toEqual([]);
  const node = { uid: UID, name: 'web-1', ...keyOf(1), sealingKey: null };
  writeKnownNodes(path, [node]);
  expect(readKnownNodes(path)).toEqual([node]);
  chmodSync(path, 0o620);
  expect(() => readKnownNodes(path)).toThrow(
    `${path} can be written by others, who could have anything restored. Run: chmod 600 ${path}`,
  );
  chmodSync(path, 0o600);
  writeFileSync(path, `${UID} web-1 ${keyOf(2).keyId} ${keyOf(1).publicKey} -\n`);
  expect(() => readKnownNodes(path)).toThrow(
    `${path} line 1 is no known node. Remove the line, and trust the node again.`,
  );
  rmSync(path);
  symlinkSync('/etc/passwd', path);
  expect(() => readKnownNodes(path)).toThrow(`${path} is a symbolic link. Put a file of yours in its place.`);
  expect(() => knownNodesPath({})).toThrow('There is no HOME to keep known nodes in.');
  rmSync(folder, { recursive: true });
});

test('whose run it is: the key and the node must both be known', () => {
  const known = [{ uid: UID, name: 'web-1', ...keyOf(1), sealingKey: null }];
  const run = { node: 'web-1', node_uid: UID, node_key: keyOf(1).keyId };
  expect(trustedNode(known, run)).toBe(known[0]);
  expect(() => trustedNode([], run)).toThrow("compare its key and run 'aegis nodes trust web-1'.");
  expect(() => trustedNode(known, { ...run, node_key: keyOf(2).keyId })).toThrow(
    `This backup claims to be of web-1, with another key than the one that you trust (${keyOf(1).keyId.slice(0, 16)}…): it is not used.`,
  );
  expect(() => trustedNode(known, { ...run, node_uid: '01981c2e-7f3a-7bd2-a4c1-900000000002' })).toThrow(
    'You do not trust',
  );
  expect(() => trustedNode(known, { ...run, node_key: null })).toThrow('another key');
});

test('key generate: as age-keygen writes it, for its owner alone, never over another', async () => {
  const path = join(cli.home, `${randomBytes(4).toString('hex')}.key`);
  const said = await cli.text(['backups', 'key', 'generate', '-o', path]);
  const text = readFileSync(path, 'utf8');
  const [, recipient = ''] = /^# public key: (age1\S+)$/m.exec(text) ?? [];
  expect(said).toEqual({
    code: 0,
    stdout: `${recipient}\n`,
    stderr: `aegis: the identity is in ${path}: keep copies of it; without it these backups cannot be read.\n`,
  });
  expect(text).toMatch(
    /^# created: \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\n# public key: age1[a-z0-9]{58}\nAGE-SECRET-KEY-1[A-Z0-9]{58}\n$/,
  );
  expect(parseIdentities(text).map((one) => one.recipient)).toEqual([recipient]);
  expect(statSync(path).mode & 0o777).toBe(0o600);
  expect(await cli.text(['backups', 'key', 'generate', '-o', path])).toEqual(
    refused(`${path} is there already, and a key is never written over: choose another name.`),
  );
  expect(await cli.text(['backups', 'key', 'generate', '-o', '-'])).toEqual(
    refused('A secret does not go to standard output: name a file with -o.'),
  );
  expect(await cli.text(['backups', 'key', 'generate', '-o', '/proc/nowhere/k'])).toEqual(
    refused('/proc/nowhere/k cannot be made (ENOENT): choose another place with -o.'),
  );
});

test('the control server, by the fleet that its operator knows', async () => {
  const root = generateKeyPair();
  const serve = [generateKeyPair(), generateKeyPair()];
  const bundleOf = (count: number) =>
    signTrustBundle(
      {
        fleet: 'f',
        version: 1,
        previous: null,
        issued_at: '2026-01-01T00:00:00Z',
        expires_at: '2100-01-01T00:00:00Z',
        root: { threshold: 1, keys: [root.publicRaw.toString('base64')] },
        keys: [
          ...serve.slice(0, count).map(({ keyId, publicRaw }) => ({
            keyid: keyId,
            public_key: publicRaw.toString('base64'),
            name: 'server',
            usage: ['serve' as const],
            state: 'active' as const,
          })),
        ],
      },
      root,
    );
  let count = 1;
  const home = mkdtempSync(join(tmpdir(), 'aegis-trust-'));
  await using server = await scriptedServer({
    'GET /api/v1/trust': (_, response) =>
      reply(response, { trust_bundle: bundleOf(count), root_fingerprint: root.keyId }),
  });
  const trust = (...args: string[]) =>
    cli.text(['nodes', 'trust', '--control-server', ...args], { env: { HOME: home, AEGIS_SERVER: server.url } });
  const ids = serve.map(({ keyId }) => keyId);
  expect(await trust()).toEqual(refused('Without a terminal nobody can be asked: give --key-id, or --accept-new.'));
  expect(await trust('--key-id', ids[0] ?? '')).toEqual(
    refused(
      `This fleet's root has the fingerprint ${root.keyId}, not the one that was given: its server is not trusted. Find out who answers there.`,
      1,
    ),
  );
  expect(await trust('--accept-new')).toEqual({ code: 0, stdout: `the server is trusted: ${ids[0]}\n`, stderr: '' });
  expect(await trust()).toEqual({ code: 0, stdout: `the server is trusted already: ${ids[0]}\n`, stderr: '' });
  count = 2;
  expect(await trust('--accept-new')).toEqual(
    refused(
      `A server is known with another key: this one is not simply new. Compare the root's fingerprint, and give --key-id ${root.keyId}.`,
      1,
    ),
  );
  expect(await trust('--key-id', root.keyId)).toMatchObject({ code: 0 });
  const known = readKnownNodes(join(home, '.config/aegis/known_nodes'));
  expect(known.map(({ keyId }) => keyId)).toEqual(ids);
  const run = { node: 'server', node_uid: null, node_key: ids[1] ?? '' };
  expect(trustedNode(known, run)).toBe(known[1]);
  // A node's key does not vouch for the server.
  expect(() =>
    trustedNode([{ uid: UID, name: 'web-1', ...keyOf(1), sealingKey: null }], { ...run, node_key: keyOf(1).keyId }),
  ).toThrow(
    "You do not trust the control server yet, whose signature would vouch for this backup: compare its key and run 'aegis nodes trust --control-server'.",
  );
  rmSync(home, { recursive: true });
});
