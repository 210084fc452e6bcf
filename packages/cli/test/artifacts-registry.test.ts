import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { createToken } from '@aegis/protocol/access/endpoints';
import { type Artifact, postStatus } from '@aegis/protocol/artifacts/endpoints';
import type { StatusReport } from '@aegis/protocol/artifacts/status';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { waitFor } from '../../../test/faults/wait.ts';
import { type EnrolledNode, startTestServer, type TestServer } from '../../server/test/start-test-server.ts';
import { type ArtifactFolder, artifactFolder } from './artifact-folder.ts';
import { ran } from './cli-process.ts';

/** The registry through the real server; nodes are enrolled for real, and what they report is said by the test. */

let author: ArtifactFolder;
let server: TestServer;
let env: Record<string, string>;
const nodes = new Map<string, EnrolledNode>();
const published = new Map<string, Artifact>();

const aegis = (...args: string[]) => author.aegis(args, { env });
const artifacts = (...args: string[]) => aegis('artifacts', ...args);
const refused = (sentence: string, code = 2) => ({ code, stdout: '', stderr: `aegis: ${sentence}\n` });
const bundleOf = (version: string) => `block-icmp-${version}.tar.zst`;
const sha256 = (file: string) =>
  createHash('sha256')
    .update(readFileSync(author.at(file)))
    .digest('hex');

const release = async (version: string): Promise<void> => {
  author.edit('block-icmp/aegis.json', (manifest) => Object.assign(manifest, { version }));
  expect(await artifacts('pack', 'block-icmp')).toMatchObject({ code: 0 });
  expect(await artifacts('sign', bundleOf(version), '--key', 'release.key')).toMatchObject({ code: 0 });
};
const push = async (version: string): Promise<void> => {
  await release(version);
  const { code, stdout } = await artifacts('push', bundleOf(version), '--json');
  expect(code).toBe(0);
  published.set(version, JSON.parse(stdout) as Artifact);
};
const idOf = (version: string) => published.get(version)?.artifact_id ?? '';

beforeAll(async () => {
  author = await artifactFolder();
  server = await startTestServer();
  const { token } = await server.as('admin').call(createToken, { body: { name: 'cli', role: 'admin' } });
  env = { AEGIS_SERVER: server.url, AEGIS_TOKEN: token };
  for (const name of ['web-1', 'web-2', 'web-3']) nodes.set(name, await server.enrol(name));
  await author.build('block-icmp');
  execFileSync('minisign', ['-G', '-W', '-p', author.at('release.pub'), '-s', author.at('release.key')]);
});
afterAll(async () => {
  await server?.close();
  author?.[Symbol.dispose]();
});

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
  await release('1.0.0');
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
sha256:    ${sha256(bundleOf('1.0.0'))}
size:      ${(readFileSync(author.at(bundleOf('1.0.0'))).length / 1024).toFixed(1)} KiB
signed by: release
`,
    stderr: '',
  });
  const again = await artifacts('push', bundleOf('1.0.0'), '--json');
  expect({ code: again.code, ...JSON.parse(again.stdout) }).toMatchObject({ code: 0, artifact_id: id });
  published.set('1.0.0', JSON.parse(again.stdout) as Artifact);
  // The same version with other bytes.
  author.edit('block-icmp/aegis.json', (manifest) => Object.assign(manifest, { description: 'Another' }));
  await release('1.0.0');
  const taken = await artifacts('push', bundleOf('1.0.0'), '--json');
  expect({ code: taken.code, error: JSON.parse(taken.stderr).error.code }).toEqual({
    code: 1,
    error: 'artifacts.version_taken',
  });
  for (const version of ['1.1.0', '1.10.0', '2.0.0-rc.1']) await push(version);
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
    .replaceAll(sha256(bundleOf('1.1.0')), '<bundle>')
    .replaceAll(sha256('block-icmp/block_icmp.bpf.o'), '<object>')
    .replaceAll(idOf('1.1.0'), '<id>')
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
  expect(JSON.parse((await artifacts('show', idOf('1.0.0'), '--json')).stdout)).toMatchObject({ version: '1.0.0' });
});

test('verify and pull by the keys of the server', async () => {
  expect(await artifacts('verify', bundleOf('1.1.0'))).toMatchObject({ code: 0, stderr: '' });
  const pulled = await artifacts('pull', 'block-icmp@1.1.0', '-o', 'pulled.tar.zst');
  expect({ ...pulled, stdout: pulled.stdout.replace(/\([0-9a-f]{16}\)/, '(…)') }).toEqual({
    code: 0,
    stdout: `file:      pulled.tar.zst
signature: pulled.tar.zst.minisig
artifact:  block-icmp@1.1.0
sha256:    ${sha256(bundleOf('1.1.0'))}
signed by: release (…)
`,
    stderr: '',
  });
  for (const suffix of ['', '.minisig'])
    expect(readFileSync(author.at(`pulled.tar.zst${suffix}`))).toEqual(
      readFileSync(author.at(bundleOf('1.1.0') + suffix)),
    );
  execFileSync('minisign', ['-G', '-W', '-p', author.at('other.pub'), '-s', author.at('other.key')]);
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

test('assign: who gets it, with which settings, and what was there', async () => {
  expect(await aegis('assign', 'block-icmp')).toEqual(
    refused('Name an artifact and at least one node: aegis assign ARTIFACT NODE…'),
  );
  expect(await aegis('assign', '--set', 'x', 'block-icmp', 'web-1')).toEqual(refused('--set x: write NAME=VALUE.'));
  expect(await aegis('assign', '--set', 'a=1', '--set', 'a=2', 'block-icmp', 'web-1')).toEqual(
    refused("--set gives 'a' twice."),
  );
  expect(await aegis('assign', 'block-icmp', 'nobody')).toEqual(
    refused("No node named 'nobody'. See 'aegis nodes list'."),
  );
  const codeOf = async (...args: string[]) => {
    const { code, stderr } = await aegis('assign', ...args, '--json');
    return [code, (JSON.parse(stderr) as { error: { code: string } }).error.code];
  };
  expect(await codeOf('--set', 'target=1', 'block-icmp', 'web-1')).toEqual([2, 'artifacts.unknown_constant']);
  expect(await codeOf('--set', 'target_ip=me', 'block-icmp', 'web-1')).toEqual([2, 'artifacts.bad_constant']);
  expect(await codeOf('nothing', 'web-1')).toEqual([1, 'artifacts.unknown_artifact']);
  expect(await aegis('assign', '--dry-run', 'block-icmp@1.1.0', 'web-1', 'web-2')).toEqual({
    code: 0,
    stdout: 'NODE   ARTIFACT          CHANGE\nweb-1  block-icmp@1.1.0  new\nweb-2  block-icmp@1.1.0  new\n',
    stderr: 'aegis: dry run: nothing was changed on 2 nodes.\n',
  });
  expect(await aegis('assign', 'block-icmp@1.1.0', 'web-1', 'web-2')).toEqual({
    code: 0,
    stdout: 'NODE   ARTIFACT          CHANGE\nweb-1  block-icmp@1.1.0  new\nweb-2  block-icmp@1.1.0  new\n',
    stderr: '',
  });
  expect((await aegis('assign', 'block-icmp@1.1.0', 'all')).stdout).toBe(
    'NODE   ARTIFACT          CHANGE\nweb-1  block-icmp@1.1.0  unchanged\nweb-2  block-icmp@1.1.0  unchanged\nweb-3  block-icmp@1.1.0  new\n',
  );
  expect((await aegis('assign', '--set', 'target_ip=192.0.2.9', 'block-icmp@1.1.0', 'web-1')).stdout).toBe(
    'NODE   ARTIFACT          CHANGE\nweb-1  block-icmp@1.1.0  other settings\n',
  );
  const { stdout } = await aegis('assign', '--json', '--set', 'target_ip=192.0.2.9', 'block-icmp@1.0.0', 'web-1');
  expect(JSON.parse(stdout)).toMatchObject({
    artifact: { name: 'block-icmp', version: '1.0.0' },
    assignments: [
      {
        host: 'web-1',
        version: '1.0.0',
        previous_version: '1.1.0',
        generation: 3,
        changed: true,
        constants: { target_ip: '192.0.2.9' },
      },
    ],
  });
  const taken = await artifacts('delete', 'block-icmp@1.0.0', '--yes', '--json');
  expect({ code: taken.code, error: JSON.parse(taken.stderr).error.code }).toEqual({
    code: 1,
    error: 'artifacts.assigned',
  });
});

const report = (node: string, version: string, generation: number, more: Partial<StatusReport> = {}) =>
  nodes.get(node)?.call(postStatus, {
    params: { id: idOf(version) },
    body: {
      name: 'block-icmp',
      version,
      generation,
      state: 'attached',
      at: '2026-01-31T08:00:00.000Z',
      attachments: [{ program: 'drop_icmp', hook: 'tc egress on eth0', state: 'attached', interface: 'eth0' }],
      maps: [],
      drift: [],
      ...more,
    },
  });

test('status: a row for each node, with the reason of what failed', async () => {
  await report('web-2', '1.1.0', 1, {
    attachments: [
      { program: 'drop_icmp', hook: 'tcx egress on eth*', state: 'attached', interface: 'eth1' },
      { program: 'drop_icmp', hook: 'tcx egress on wg0', state: 'waiting', reason: 'there is no interface wg0' },
    ],
    drift: [{ at: '2026-01-31T08:00:00.000Z', what: 'link_missing', detail: 'x', repaired: true }],
  });
  await report('web-3', '1.1.0', 1, {
    state: 'failed',
    attachments: [],
    reason: { code: 'artifacts.load_failed', message: 'The verifier refuses it: R1 invalid mem access.' },
    verifier_log: '0: (b7) r0 = 0\n',
  });
  expect(await artifacts('status')).toEqual({
    code: 0,
    stdout: `ARTIFACT    NODE   VERSION  STATE     ATTACHED  DRIFT  NOTE
block-icmp  web-1  1.0.0    pending   -         0
block-icmp  web-2  1.1.0    attached  1/2       1      tcx egress on wg0 (there is no interface wg0)
block-icmp  web-3  1.1.0    failed    -         0      artifacts.load_failed: The verifier refuses it: R1 invalid mem access.
`,
    stderr: '',
  });
  const one = await artifacts('status', 'block-icmp@1.1.0', '--node', 'web-3', '--json');
  expect(JSON.parse(one.stdout)).toMatchObject({
    items: [{ node: 'web-3', state: 'failed', report: { verifier_log: '0: (b7) r0 = 0\n' } }],
  });
});

test('--wait: failed at once, not done in time, done', async () => {
  const failed = await artifacts('status', 'block-icmp', '--node', 'web-3', '--wait');
  expect({ code: failed.code, stderr: failed.stderr }).toEqual({
    code: 1,
    stderr: "aegis: failed on web-3. 'aegis artifacts status block-icmp' says why.\n",
  });
  const late = await aegis('assign', '--wait', '--timeout', '0.3s', 'block-icmp@1.1.0', 'web-1');
  expect({ code: late.code, stderr: late.stderr }).toEqual({
    code: 1,
    stderr:
      "aegis: not done on web-1 after 0.3s; it goes on. 'aegis artifacts status block-icmp --watch' follows it.\n",
  });
  expect(await aegis('assign', '--wait', '--timeout', 'soon', 'block-icmp@1.1.0', 'web-1')).toEqual(
    refused('--timeout soon: write a time such as 90s, 5m or 1h.'),
  );
  const child = author.cli.start(['artifacts', 'status', '--node', 'web-1', '--wait', '--json'], env);
  const result = ran(child);
  await report('web-1', '1.1.0', 4);
  const { code, stdout } = await result;
  expect({ code, ...JSON.parse(String(stdout)) }).toMatchObject({
    code: 0,
    waited: [{ node: 'web-1', name: 'block-icmp', settled: 'done' }],
    items: [{ node: 'web-1', state: 'attached' }],
  });
  // A node that put the former version back has not done what was wished.
  await aegis('assign', 'block-icmp@2.0.0-rc.1', 'web-1');
  await report('web-1', '2.0.0-rc.1', 5, {
    version: '1.1.0',
    reason: { code: 'artifacts.attach_failed', message: 'No.', version: '2.0.0-rc.1' },
  });
  const restored = await artifacts('status', '--node', 'web-1', '--wait');
  expect(restored).toMatchObject({
    code: 1,
    stderr: "aegis: failed on web-1. 'aegis artifacts status block-icmp' says why.\n",
  });
  expect(restored.stdout).toContain('2.0.0-rc.1 failed (artifacts.attach_failed), 1.1.0 runs: No.');
});

test('--watch: a line for each change until it is ended; NDJSON', async () => {
  const child = author.cli.start(['artifacts', 'status', 'block-icmp', '--node', 'web-2', '--watch', '--json'], env);
  let heard = '';
  child.stdout?.on('data', (piece: Buffer) => {
    heard += piece.toString('utf8');
  });
  const lines = () =>
    heard
      .split('\n')
      .slice(0, -1)
      .map((line) => JSON.parse(line) as Record<string, unknown>);
  await waitFor('the first line', () => lines().length === 1);
  await report('web-2', '1.1.0', 1, { at: '2026-01-31T09:00:00.000Z' });
  await waitFor('the change', () => lines().length === 2);
  await aegis('unassign', 'block-icmp', 'web-2');
  await waitFor('the unassignment', () => lines().length === 3);
  child.kill('SIGINT');
  const { code } = await ran(child);
  expect({ code, lines: lines() }).toMatchObject({
    code: 130,
    lines: [
      { type: 'status', node: 'web-2', version: '1.1.0', report: { attachments: [{}, {}] } },
      { type: 'status', node: 'web-2', version: '1.1.0', report: { attachments: [{}] } },
      { type: 'status', node: 'web-2', version: null },
    ],
  });
});

test('unassign: a tombstone, and what it waits for', async () => {
  expect(await aegis('unassign', 'block-icmp')).toEqual(
    refused('Name an artifact and at least one node: aegis unassign ARTIFACT NODE…'),
  );
  expect(await aegis('unassign', '--dry-run', 'block-icmp', 'web-3')).toEqual({
    code: 0,
    stdout: 'NODE   ARTIFACT          CHANGE\nweb-3  block-icmp@1.1.0  taken off\n',
    stderr: 'aegis: dry run: nothing was changed.\n',
  });
  const child = author.cli.start(['unassign', '--wait', 'block-icmp', 'web-3'], env);
  const result = ran(child);
  await waitFor('the tombstone', async () => {
    const { stdout } = await artifacts('status', '--node', 'web-3', '--json');
    return (JSON.parse(stdout) as { items: { version: string | null }[] }).items[0]?.version === null;
  });
  await nodes.get('web-3')?.call(postStatus, {
    params: { id: idOf('1.1.0') },
    body: {
      name: 'block-icmp',
      generation: 2,
      state: 'detached',
      at: '2026-01-31T10:00:00.000Z',
      attachments: [],
      maps: [],
      drift: [],
    },
  });
  const { code, stdout } = await result;
  expect({ code, state: String(stdout).split('\n')[1]?.split(/ +/).slice(-3) }).toMatchObject({ code: 0 });
  expect(String(stdout)).toContain('detached');
  await server.enrol('web-4');
  expect(await aegis('unassign', 'block-icmp', 'web-4')).toEqual(
    refused("block-icmp is not assigned to 'web-4'. See 'aegis artifacts status'.", 1),
  );
});

test('--only makes these nodes the whole set', async () => {
  expect(await aegis('assign', '--only', '--dry-run', 'block-icmp@1.1.0', 'web-3')).toMatchObject({
    code: 0,
    stderr: 'aegis: dry run: nothing was changed, and no other node has it.\n',
  });
  await aegis('assign', 'block-icmp@1.1.0', 'web-2');
  expect(await aegis('assign', '--only', '--dry-run', 'block-icmp@1.1.0', 'web-3')).toMatchObject({
    code: 0,
    stderr: 'aegis: dry run: nothing was changed; it would be taken off web-2.\n',
  });
  expect(await aegis('assign', '--only', 'block-icmp@1.1.0', 'web-3')).toEqual({
    code: 0,
    stdout: 'NODE   block-icmp@1.1.0\nweb-3  added\nweb-2  removed\n',
    stderr: '',
  });
  const { stdout } = await aegis('assign', '--only', 'block-icmp@1.1.0', 'web-3', '--json');
  expect(JSON.parse(stdout)).toEqual({ added: [], removed: [], unchanged: ['web-3'] });
});
