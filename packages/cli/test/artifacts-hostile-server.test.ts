import { createHash, randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import type { ServerResponse } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { completeManifest, packBundle } from '@aegis/archive/bundle/pack';
import { generateKeyPair } from '@aegis/protocol/access/keys';
import { formatMinisignPublicKey, signMinisign } from '@aegis/protocol/access/minisign';
import type { Artifact } from '@aegis/protocol/artifacts/endpoints';
import { ManifestSource } from '@aegis/protocol/artifacts/manifest';
import { trustedCommentOf } from '@aegis/protocol/artifacts/signature';
import { afterEach, beforeEach, expect, test } from 'vitest';
import * as z from 'zod/mini';
import { cliOfFile } from './cli-process.ts';
import { reply, scriptedServer } from './scripted-server.ts';

/** A registry that lies: what it names, sizes and hands out is not believed before the bundle itself says so. */

const ID = '01981c2e-7f3a-7bd2-a4c1-3f0e8f1d2b6a';
const { privateKey, publicRaw } = generateKeyPair();
const minisignId = randomBytes(8).toString('hex').toUpperCase();

const cli = cliOfFile();
let root: string;
let folder: string;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'aegis-hostile-'));
  folder = join(root, 'work');
  mkdirSync(folder);
  writeFileSync(join(folder, 'release.pub'), formatMinisignPublicKey({ minisignId, raw: publicRaw }));
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

const bundleOf = async (name: string, version: string): Promise<{ bytes: Buffer; signature: string }> => {
  const files = new Map([['a.bpf.o', Buffer.from(`${name} ${version}`)]]);
  const source = z.parse(ManifestSource, {
    name,
    version,
    objects: [{ file: 'a.bpf.o' }],
    programs: [{ name: 'drop', attach: { kind: 'cgroup_skb', cgroup: '/', direction: 'egress' } }],
  });
  const bytes = await packBundle({ manifest: completeManifest(source, files), files });
  const trustedComment = trustedCommentOf(name, version, Date.now());
  return { bytes, signature: signMinisign(bytes, { minisignId, privateKey }, { trustedComment }) };
};

/** What it says of these bytes, and the bytes. */
const registryOf = async (claims: Partial<Artifact>, bytes: Buffer, signature: string) => {
  const artifact = {
    artifact_id: ID,
    name: 'block-icmp',
    version: '2.0.0',
    checksum: createHash('sha256').update(bytes).digest('hex'),
    size: bytes.length,
    signature,
    signed: true,
    ...claims,
  };
  const send = (response: ServerResponse) => response.writeHead(200, { 'content-type': 'application/zstd' }).end(bytes);
  return scriptedServer({
    'GET /artifacts': (_, response) => reply(response, { artifacts: [artifact], total: 1, next_cursor: null }),
    [`GET /artifacts/${ID}`]: (_, response) => reply(response, { ...artifact, manifest: {} }),
    [`GET /artifacts/${ID}/binary`]: (_, response) => void send(response),
  });
};
const pull = async (url: string, ...args: string[]) => {
  const said = await cli.text(['artifacts', 'pull', '--server', url, ...args], { cwd: folder });
  return { ...said, written: readdirSync(folder), beside: readdirSync(root) };
};
const nothing = (stderr: string) => ({ code: 1, stdout: '', stderr, written: ['release.pub'], beside: ['work'] });

test('a name that leads elsewhere is no name of a file', async () => {
  const { bytes, signature } = await bundleOf('block-icmp', '2.0.0');
  await using server = await registryOf({ name: '../stolen' }, bytes, signature);
  for (const more of [['--no-verify'], ['--public-key', 'release.pub']])
    expect(await pull(server.url, ID, ...more)).toEqual(
      nothing(
        'aegis: The server calls this ../stolen@2.0.0, and its own manifest says block-icmp@2.0.0: nothing was written. Ask for the version that is meant, or find out who answers there.\n',
      ),
    );
  expect(existsSync(join(root, 'stolen-2.0.0.tar.zst'))).toBe(false);
});

test('an old version under the number of a new one, well signed', async () => {
  const { bytes, signature } = await bundleOf('block-icmp', '1.0.0');
  await using server = await registryOf({}, bytes, signature);
  for (const more of [['--no-verify'], ['--public-key', 'release.pub']])
    expect(await pull(server.url, 'block-icmp@2.0.0', ...more)).toEqual(
      nothing(
        'aegis: The server calls this block-icmp@2.0.0, and its own manifest says block-icmp@1.0.0: nothing was written. Ask for the version that is meant, or find out who answers there.\n',
      ),
    );
});

test('another artifact than was asked for', async () => {
  const { bytes, signature } = await bundleOf('other', '2.0.0');
  await using server = await registryOf({ name: 'other' }, bytes, signature);
  expect(await pull(server.url, 'block-icmp', '--public-key', 'release.pub')).toEqual(
    nothing("aegis: There is no artifact 'block-icmp'. See 'aegis artifacts list'.\n"),
  );
  expect(await pull(server.url, 'block-icmp@2.0.0', '--public-key', 'release.pub')).toEqual(
    nothing(
      "aegis: There is no version 2.0.0 of an artifact 'block-icmp'. See 'aegis artifacts list --name block-icmp'.\n",
    ),
  );
});

test('more than any bundle has is not taken into memory', async () => {
  const { signature } = await bundleOf('block-icmp', '2.0.0');
  const bytes = Buffer.alloc(16 * 1024 * 1024 + 1);
  await using server = await registryOf({}, bytes, signature);
  const sha256 = createHash('sha256').update(bytes).digest('hex');
  expect(await pull(server.url, 'block-icmp', '--no-verify')).toEqual(
    nothing(
      `aegis: What came as block-icmp@2.0.0 is not what it should be (SHA-256 ${sha256}); nothing was written. Try again.\n`,
    ),
  );
});

test('what is as it says is written', async () => {
  const { bytes, signature } = await bundleOf('block-icmp', '2.0.0');
  await using server = await registryOf({}, bytes, signature);
  expect(await pull(server.url, 'block-icmp', '--public-key', 'release.pub')).toMatchObject({
    code: 0,
    written: ['block-icmp-2.0.0.tar.zst', 'block-icmp-2.0.0.tar.zst.minisig', 'release.pub'],
  });
});
