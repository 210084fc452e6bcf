import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { revokeKey } from '@aegis/protocol/access/endpoints';
import { artifactBinary, assignArtifact, listArtifacts, showArtifact } from '@aegis/protocol/artifacts/endpoints';
import { expect, test } from 'vitest';
import { bundle, publish, registry, type Signatory, sentence, signatureOf } from './artifacts-support.ts';
import { sha256 } from './commands-support.ts';
import { startTestServer, type TestServer } from './start-test-server.ts';

/** The registry's door beside the database: forms, sizes, blobs and their disk, who signs. */

const blobsOf = ({ dataDir }: TestServer): string[] =>
  readdirSync(join(dataDir, 'blobs'), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map(({ name }) => name)
    .sort();

test('a form does what the JSON does', async () => {
  await using server = await startTestServer();
  const { signer, operator } = await registry(server);
  const one = await bundle('a', '1.0.0');
  const signature = signatureOf(one, signer);
  const form = (parts: Record<string, string | Blob>) => {
    const body = new FormData();
    for (const [name, part] of Object.entries(parts)) body.append(name, part);
    return operator.raw('POST', '/artifacts', { body });
  };
  const file = new Blob([new Uint8Array(one.bytes)]);
  const made = await form({ bundle: file, signature });
  expect([made.status, made.json]).toMatchObject([201, { name: 'a', version: '1.0.0', checksum: sha256(one.bytes) }]);
  const again = await form({ bundle: file, signature, name: 'a', version: '1.0.0', kernel_version: '5.15' });
  expect([again.status, again.json]).toEqual([200, made.json]);
  const codes = async (parts: Record<string, string | Blob>) => {
    const { status, json } = await form(parts);
    const { code, message } = (json as { error: { code: string; message: string } }).error;
    return `${status} ${code}: ${message}`;
  };
  expect({
    mismatch: await codes({ bundle: file, signature, name: 'b' }),
    'an unknown part': await codes({ bundle: file, signature, colour: 'red' }),
    'no bundle': await codes({ signature }),
    'a bundle that is text': await codes({ bundle: 'text', signature }),
    'a signature that is a file': await codes({ bundle: file, signature: new Blob([signature]) }),
  }).toEqual({
    mismatch:
      "422 artifacts.field_mismatch: 'name' says 'b', the bundle's manifest 'a'. Send what the manifest says, or leave it out.",
    'an unknown part': '400 http.malformed: The request is malformed: form Unrecognized key: "colour".',
    'no bundle':
      "400 http.malformed: The request is malformed: form field 'bundle': Invalid input: expected Uint8Array, received undefined.",
    'a bundle that is text':
      "400 http.malformed: The request is malformed: form field 'bundle': Invalid input: expected Uint8Array, received string.",
    'a signature that is a file':
      "400 http.malformed: The request is malformed: form field 'signature': Invalid input: expected string, received Buffer.",
  });
  const elsewhere = await operator.raw('POST', '/api/v1/assignments', { body: new FormData() });
  expect(elsewhere.status).toBe(415);
});

test('the largest bundle fits through the door, within the default budget', async () => {
  await using server = await startTestServer();
  const operator = server.as('operator');
  const send = async (bytes: number) => {
    const body = JSON.stringify({
      name: 'a',
      version: '1.0.0',
      signature: 'x',
      data: Buffer.alloc(bytes).toString('base64'),
    });
    const { status, json } = await operator.raw('POST', '/artifacts', {
      body,
      headers: { 'content-type': 'application/json' },
    });
    return [status, (json as { error: { code: string } }).error.code];
  };
  expect(await send(16 * 1024 * 1024)).toEqual([422, 'artifacts.bad_bundle']);
  expect(await send(16 * 1024 * 1024 + 3)).toEqual([400, 'http.malformed']);
  expect(await send(19 * 1024 * 1024)).toEqual([413, 'http.too_large']);
});

test('a blob without its row is swept at the start; a row whose blob is damaged says so, and a push mends it', async () => {
  await using server = await startTestServer();
  const { signer, operator } = await registry(server);
  const one = await bundle('a', '1.0.0');
  const signature = signatureOf(one, signer);
  const { artifact_id } = await publish(operator, one, signature);
  const orphan = sha256('orphan');
  const folder = join(server.dataDir, 'blobs', sha256(one.bytes).slice(0, 2));
  writeFileSync(join(folder, orphan), 'orphan');
  writeFileSync(join(folder, sha256(one.bytes)), 'damaged');
  await server.restart();
  expect(blobsOf(server)).toEqual([sha256(one.bytes)]);
  const binary = () => sentence(operator.call(artifactBinary, { params: { id: artifact_id } }));
  expect(await binary()).toBe(
    '500 http.internal: The stored bundle of a 1.0.0 is damaged. Push the same file again: that mends it.',
  );
  rmSync(join(folder, sha256(one.bytes)));
  expect(await binary()).toBe(
    '500 http.internal: The stored bundle of a 1.0.0 is missing. Push the same file again: that mends it.',
  );
  await publish(operator, one, signature);
  expect((await operator.raw('GET', `/artifacts/${artifact_id}/binary`)).status).toBe(200);
});

test('a full disk: nothing is stored, and all is well once there is room', async () => {
  await using server = await startTestServer();
  const { signer, operator } = await registry(server);
  const one = await bundle('a', '1.0.0', {}, randomBytes(512 * 1024));
  const signature = signatureOf(one, signer);
  const small = await bundle('b', '1.0.0');
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=256k,mode=0700', 'tmpfs', join(server.dataDir, 'blobs')]);
  try {
    expect(await sentence(publish(operator, one, signature))).toBe(
      "503 artifacts.storage_full: The server's disk is full: nothing was stored. Free some space on it; then send the bundle again.",
    );
    expect(blobsOf(server)).toEqual([]);
    expect((await operator.call(listArtifacts)).total).toBe(0);
    await publish(operator, small, signatureOf(small, signer));
    execFileSync('mount', ['-o', 'remount,size=4m', join(server.dataDir, 'blobs')]);
    await publish(operator, one, signature);
    expect((await operator.call(listArtifacts)).total).toBe(2);
  } finally {
    execFileSync('umount', [join(server.dataDir, 'blobs')]);
  }
});

test('who signs is told by the trust bundle of this moment', async () => {
  await using server = await startTestServer();
  const { signer, operator } = await registry(server);
  await server.enrol('n');
  const one = await bundle('a', '1.0.0');
  const { artifact_id } = await publish(operator, one, signatureOf(one, signer as Signatory));
  await server.as('admin').call(revokeKey, { params: { id: signer.minisignId } });
  expect((await operator.call(showArtifact, { params: { id: artifact_id } })).signer).toEqual({
    keyid: signer.keys.keyId,
    name: 'release',
    state: 'revoked',
  });
  expect(await sentence(operator.call(assignArtifact, { params: { artifact_id, host_id: 'n' }, body: {} }))).toBe(
    "403 artifacts.revoked_signer: a 1.0.0 is signed by the key 'release', which is revoked: no node loads it. Sign the same bundle with another key and push it again.",
  );
});
