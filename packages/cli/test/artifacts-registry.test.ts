import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import type { Artifact } from '@aegis/protocol/artifacts/endpoints';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { ArtifactFolder } from './artifact-folder.ts';
import { refused } from './cli-process.ts';
import { bundleOf, type RegistryStage, registryStage } from './registry-stage.ts';

/** Versions through the real server: pushed, listed, shown, verified, pulled, deleted. */

let stage: RegistryStage;
let author: ArtifactFolder;
beforeAll(async () => {
  stage = await registryStage();
  author = stage.author;
});
afterAll(() => stage?.[Symbol.asyncDispose]());

const aegis = (...args: string[]) => stage.aegis(...args);
const artifacts = (...args: string[]) => stage.artifacts(...args);

test('nothing is there yet', async () => {
  expect(await artifacts('list')).toEqual({
    code: 0,
    stdout: 'NAME  VERSION  TYPE  ARCH  SIZE  SIGNED BY  NODES  PUBLISHED  DESCRIPTION\n',
    stderr: "aegis: no artifact matches. 'aegis artifacts init NAME' begins one.\n",
  });
  expect(await artifacts('show', 'block-icmp')).toEqual(
    refused("There is no artifact 'block-icmp'. See 'aegis artifacts list'.", 1),
  );
  expect(await artifacts('status')).toEqual({
    code: 0,
    stdout: 'ARTIFACT  NODE  VERSION  STATE  ATTACHED  DRIFT  NOTE\n',
    stderr: "aegis: nothing is assigned to any node. 'aegis assign' does it.\n",
  });
  expect(await artifacts('status', '--wait')).toEqual(
    refused("nothing is assigned to any node. 'aegis assign' does it.", 1),
  );
});

test('push: only what a trusted key signed, and a version once', async () => {
  await stage.release('1.0.0');
  const unknown = await artifacts('push', bundleOf('1.0.0'));
  expect(unknown).toMatchObject({ code: 1, stdout: '' });
  expect(unknown.stderr).toMatch(
    /^aegis: The signature was made with the key [0-9A-F]{16}, which this fleet does not trust/,
  );
  expect(await aegis('access', 'keys', 'add', 'release.pub', '--usage', 'artifacts')).toMatchObject({ code: 0 });
  const pushed = await artifacts('push', bundleOf('1.0.0'));
  const id = /id: +(\S+)/.exec(pushed.stdout)?.[1] ?? '';
  expect(pushed).toEqual({
    code: 0,
    stdout: `artifact:  block-icmp@1.0.0
id:        ${id}
sha256:    ${author.sha256(bundleOf('1.0.0'))}
size:      ${(readFileSync(author.at(bundleOf('1.0.0'))).length / 1024).toFixed(1)} KiB
signed by: release
`,
    stderr: '',
  });
  const again = await artifacts('push', bundleOf('1.0.0'), '--json');
  expect({ code: again.code, ...JSON.parse(again.stdout) }).toMatchObject({ code: 0, artifact_id: id });
  stage.published.set('1.0.0', JSON.parse(again.stdout) as Artifact);
  // The same version with other bytes.
  author.edit('block-icmp/aegis.json', (manifest) => Object.assign(manifest, { description: 'Another' }));
  await stage.release('1.0.0');
  const taken = await artifacts('push', bundleOf('1.0.0'), '--json');
  expect({ code: taken.code, error: JSON.parse(taken.stderr).error.code }).toEqual({
    code: 1,
    error: 'artifacts.version_taken',
  });
  for (const version of ['1.1.0', '1.10.0', '2.0.0-rc.1']) await stage.push(version);
  expect(await artifacts('push', 'nowhere')).toEqual(
    refused("nowhere is not there. Name a bundle that 'aegis artifacts pack' made."),
  );
  expect(await artifacts('push', bundleOf('1.1.0'), '--signature', 'nowhere')).toEqual(
    refused("nowhere is not there. Sign the bundle with 'aegis artifacts sign'."),
  );
});

test('a bundle without a signature is refused', async () => {
  writeFileSync(author.at('bare.tar.zst'), readFileSync(author.at(bundleOf('1.1.0'))));
  expect(await artifacts('push', 'bare.tar.zst')).toEqual(
    refused(
      "The bundle comes without a signature. Sign it with 'aegis artifacts sign' (or minisign), and send it as 'signature'.",
      1,
    ),
  );
});

test('list, show: the newest by precedence, not by time', async () => {
  const listed = await artifacts('list', '--name', 'block-icmp', '--json');
  const { artifacts: all, total } = JSON.parse(listed.stdout) as { artifacts: Artifact[]; total: number };
  expect({ code: listed.code, total, versions: all.map(({ version }) => version) }).toEqual({
    code: 0,
    total: 4,
    versions: ['2.0.0-rc.1', '1.10.0', '1.1.0', '1.0.0'],
  });
  const { stdout, stderr } = await artifacts('list', '--limit', '1');
  expect(stdout.split('\n')[1]).toMatch(
    /^block-icmp {2}2\.0\.0-rc\.1 {2}policy {2}any {3}\S+ KiB {2}release {4}0 {6}\S.* {2}Another$/,
  );
  expect(stderr).toBe('aegis: 1 of 4; a larger --limit shows more.\n');
  const shown = await artifacts('show', 'block-icmp@1.1.0');
  const plain = shown.stdout
    .replaceAll(author.sha256(bundleOf('1.1.0')), '<bundle>')
    .replaceAll(author.sha256('block-icmp/block_icmp.bpf.o'), '<object>')
    .replaceAll(stage.idOf('1.1.0'), '<id>')
    .replace(/published: +\S+/, 'published: <time>')
    .replace(/\d+\.?\d* KiB/g, '<size>');
  expect({ ...shown, stdout: plain }).toMatchSnapshot();
  // As an assignment without a version takes it: a prerelease only where there is nothing else.
  expect(JSON.parse((await artifacts('show', 'block-icmp', '--json')).stdout)).toMatchObject({
    version: '1.10.0',
    manifest: { name: 'block-icmp', constants: [{ name: 'target_ip', settable: true }] },
  });
  expect(await artifacts('show', 'block-icmp@9.0.0')).toEqual(
    refused("There is no version 9.0.0 of an artifact 'block-icmp'. See 'aegis artifacts list --name block-icmp'.", 1),
  );
  expect(JSON.parse((await artifacts('show', stage.idOf('1.0.0'), '--json')).stdout)).toMatchObject({
    version: '1.0.0',
  });
});

test('verify and pull by the keys of the server', async () => {
  expect(await artifacts('verify', bundleOf('1.1.0'))).toMatchObject({ code: 0, stderr: '' });
  const pulled = await artifacts('pull', 'block-icmp@1.1.0', '-o', 'pulled.tar.zst');
  expect({ ...pulled, stdout: pulled.stdout.replace(/\([0-9a-f]{16}\)/, '(…)') }).toEqual({
    code: 0,
    stdout: `file:      pulled.tar.zst
signature: pulled.tar.zst.minisig
artifact:  block-icmp@1.1.0
sha256:    ${author.sha256(bundleOf('1.1.0'))}
signed by: release (…)
`,
    stderr: '',
  });
  for (const suffix of ['', '.minisig'])
    expect(readFileSync(author.at(`pulled.tar.zst${suffix}`))).toEqual(
      readFileSync(author.at(bundleOf('1.1.0') + suffix)),
    );
  author.newKey('other');
  const foreign = await artifacts('pull', 'block-icmp@1.1.0', '-o', 'foreign.tar.zst', '--public-key', 'other.pub');
  expect(foreign).toMatchObject({ code: 1, stdout: '' });
  expect(foreign.stderr).toMatch(/which this fleet does not trust for artifacts/);
  expect(existsSync(author.at('foreign.tar.zst'))).toBe(false);
  const { stdout } = await artifacts('pull', 'block-icmp@1.1.0', '-o', 'any.tar.zst', '--no-verify', '--json');
  expect(JSON.parse(stdout)).toMatchObject({ file: 'any.tar.zst', signer: null, artifact: { version: '1.1.0' } });
});

test('delete names one version, asks, and takes none that is assigned', async () => {
  expect(await artifacts('delete', 'block-icmp', '--yes')).toEqual(
    refused("Name the version that goes: block-icmp@VERSION. See 'aegis artifacts list --name block-icmp'."),
  );
  expect(await artifacts('delete', 'block-icmp@1.10.0')).toEqual(
    refused('Without a terminal nobody can be asked: add --yes if it is meant.'),
  );
  expect(await artifacts('delete', 'block-icmp@1.10.0', '--yes')).toEqual({
    code: 0,
    stdout: 'block-icmp@1.10.0 is deleted\n',
    stderr: '',
  });
  expect(await artifacts('delete', 'block-icmp@1.10.0', '--yes')).toMatchObject({ code: 1 });
});
