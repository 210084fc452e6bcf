import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { addKey } from '@aegis/protocol/access/endpoints';
import { formatMinisignPublicKey } from '@aegis/protocol/access/minisign';
import { formatMinisignSecretKey, generateMinisignKey } from '@aegis/protocol/access/minisign-secret-key';
import { allStatus, listArtifacts } from '@aegis/protocol/artifacts/endpoints';
import { apiPatchNode } from '@aegis/protocol/nodes/endpoints';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { cliOfFile } from '../../packages/cli/test/cli-process.ts';
import { fakeKernel } from '../../packages/daemon/test/fake-kernel.ts';
import { registry } from '../../packages/server/test/artifacts-support.ts';
import { waitFor } from '../faults/wait.ts';
import { type HeldFleet, type HeldNode, startHeldFleet } from '../fleet/in-process.ts';

/** Operators' own signatures, from the command line over the real server to a node that obeys nothing else. */

const cli = cliOfFile();
let fleet: HeldFleet;
let strict: HeldNode;
let folder: string;
let home: string;
const policy = (text: string): void => {
  writeFileSync(join(folder, 'policy.toml'), text);
  chmodSync(join(folder, 'policy.toml'), 0o600);
};
const keyFile = (name: string): string => join(folder, `${name}.key`);
const operator = async (name: string, person: string, password: string | null = null): Promise<void> => {
  const key = generateMinisignKey();
  writeFileSync(
    keyFile(name),
    await formatMinisignSecretKey(key, password, { opslimit: 32_768, memlimit: 16 * 1024 * 1024 }),
    { mode: 0o600 },
  );
  const [, public_key = ''] = formatMinisignPublicKey({ minisignId: key.minisignId, raw: key.publicRaw }).split('\n');
  await fleet.server.as('admin').call(addKey, { body: { public_key, name, person, usage: ['operate'] } });
};
const aegis = (args: readonly string[], env: Record<string, string> = {}) =>
  cli.text(args, { env: { HOME: home, AEGIS_SERVER: fleet.server.url, AEGIS_TOKEN: fleet.token, ...env } });
const signs = (name: string): readonly string[] => ['--key', keyFile(name)];

beforeAll(async () => {
  fleet = await startHeldFleet();
  folder = mkdtempSync(join(tmpdir(), 'aegis-strict-'));
  home = mkdtempSync(join(tmpdir(), 'aegis-strict-home-'));
  policy('obey = "operators"\n');
  await operator('alice', 'alice', 'correct horse');
  await operator('bob', 'bob');
  strict = fleet.node('strict-1', {
    policy_file: join(folder, 'policy.toml'),
    site: 'fra',
    labels: { env: 'prod' },
  });
  const plain = fleet.node('plain-1');
  await Promise.all([strict.start({ kernelEngine: fakeKernel().engine }), plain.start()]);
  writeFileSync(join(folder, 'password'), 'correct horse\n');
});
afterAll(async () => {
  await fleet?.[Symbol.asyncDispose]();
  for (const one of [folder, home]) rmSync(one, { recursive: true, force: true });
});

test("a strict node refuses what the server signs, says so, and obeys the operator's own signature", async () => {
  const unsigned = await aegis(['submit', '-t', 'strict-1', '--', 'echo', 'no']);
  expect([unsigned.code, unsigned.stdout, unsigned.stderr]).toEqual([
    252,
    '',
    expect.stringContaining(
      "This node's own policy (obey) refuses it: for RunCommand it takes an operator's own signature. Sign it with an operator's key",
    ),
  ]);
  const first = await aegis([
    ...['submit', '-t', 'strict-1', ...signs('alice'), '--key-password-file', join(folder, 'password')],
    ...['--', 'echo', 'yes'],
  ]);
  expect(first).toEqual({
    code: 0,
    stdout: 'yes\n',
    stderr: expect.stringMatching(
      /^aegis: http:\S+ is the fleet '\S+'; from now on you sign for no other one there\.\n$/,
    ),
  });
  const both = await aegis(['submit', '-t', 'all', '--', 'echo', 'both'], { AEGIS_KEY: keyFile('bob') });
  expect([both.code, both.stdout.split('\n').sort()]).toEqual([0, ['', 'plain-1│both', 'strict-1│both']]);
  const wrong = await aegis(['submit', '-t', 'all', '--key', keyFile('alice'), '--', 'true']);
  expect([wrong.code, wrong.stderr]).toEqual([2, expect.stringContaining('A password is needed')]);
});

test('what the server submits again is signed by nobody: who has a key is told', async () => {
  const id = (await aegis(['submit', '-t', 'strict-1', '-d', '--', 'echo', 'no'])).stdout.trim();
  await aegis(['logs', '-f', id]); // until it has ended
  const retried = await aegis(['commands', 'retry', id]);
  expect(retried).toEqual({ code: 0, stdout: expect.stringMatching(/^[0-9a-f-]{36}\n$/), stderr: '' });
  expect(retried.stdout).not.toBe(`${id}\n`);
  await aegis(['logs', '-f', retried.stdout.trim()]);
  expect(await aegis(['commands', 'retry', retried.stdout.trim()], { AEGIS_KEY: keyFile('bob') })).toEqual({
    code: 0,
    stdout: expect.stringMatching(/^[0-9a-f-]{36}\n$/),
    stderr:
      "aegis: nobody has signed the new command: for nodes that obey operators alone, run 'aegis submit' again.\n",
  });
});

test('labels count as the node knows them, and a signature goes no further than its fleet', async () => {
  const byLabel = (value: string) => aegis(['submit', '-t', `label.env=${value}`, ...signs('bob'), '--', 'hostname']);
  expect((await byLabel('prod')).code).toBe(0);
  await fleet.server.as('admin').call(apiPatchNode, { params: { id: 'strict-1' }, body: { labels: { env: 'test' } } });
  const moved = await byLabel('test');
  expect([moved.code, moved.stderr]).toEqual([
    252,
    expect.stringContaining(
      "'label.env=test' do not mean this node, by its own configuration (name=strict-1 site=fra label.env=prod)",
    ),
  ]);
  const status = await aegis(['submit', '-t', 'not status=offline', ...signs('bob'), '--', 'true']);
  expect([status.code, status.stderr]).toEqual([2, expect.stringContaining("cannot select by 'status'")]);

  const known = join(home, '.config/aegis/known_fleets');
  const text = readFileSync(known, 'utf8');
  writeFileSync(known, text.replace(/ \S+\n$/, ' another-fleet\n'));
  const elsewhere = await aegis(['submit', '-t', 'strict-1', ...signs('bob'), '--', 'true']);
  expect([elsewhere.code, elsewhere.stderr]).toEqual([
    252,
    expect.stringContaining("you signed for 'another-fleet' there"),
  ]);
  writeFileSync(known, text);
});

test('stopping is also power: only a signed cancel ends what runs, and a later attempt too', async () => {
  const marker = join(fleet.folder, 'attempts');
  const script = `echo x >> ${marker}; [ $(wc -l < ${marker}) -ge 2 ] && exec sleep 600; exit 1`;
  const started = await aegis(['submit', '-t', 'strict-1', ...signs('bob'), '--retries', '1', '-d', '--shell', script]);
  const id = started.stdout.trim();
  await waitFor('the second attempt', () => existsSync(marker) && readFileSync(marker, 'utf8') === 'x\nx\n', 30_000);
  const running = () => strict.daemon?.status().running;
  let refused = false;
  strict.intercept = async (asked, send) => {
    const answer = await send(asked);
    refused ||= asked.url.endsWith('/v1/commands/ack');
    return answer;
  };
  await aegis(['commands', 'cancel', id, '--unsigned']);
  await waitFor('the cancel to be refused', () => refused, 30_000);
  strict.intercept = null;
  expect(running()).toBe(1);
  expect((await aegis(['commands', 'cancel', id, ...signs('bob')])).code).toBe(0);
  await waitFor('it to end', () => running() === 0, 30_000);
});

test('a threshold of two persons takes two, whose signatures are gathered in a file', async () => {
  policy('obey = { threshold = 2 }\n');
  const file = join(folder, 'reboot.json');
  const one = await aegis(['submit', '-t', 'strict-1', ...signs('bob'), '--sign-only', '--', 'echo', 'two']);
  writeFileSync(file, one.stdout);
  const alone = await aegis(['submit', '--signed', file]);
  expect([alone.code, alone.stderr]).toEqual([
    252,
    expect.stringContaining('it takes the own signatures of 2 persons'),
  ]);

  const again = await aegis(['submit', '-t', 'strict-1', ...signs('bob'), '--sign-only', '--', 'echo', 'two']);
  writeFileSync(file, again.stdout);
  const shown = await aegis(['access', 'sign', file, '--show']);
  expect(shown.stdout).toMatch(/^kind: +command\.run\nfleet: .*\ntargets: +name=strict-1\n/);
  expect((await aegis(['access', 'sign', file, ...signs('bob'), '--yes'])).code).toBe(2);
  const second = [...signs('alice'), '--key-password-file', join(folder, 'password')];
  expect((await aegis(['access', 'sign', file, ...second])).stderr).toContain('Without a terminal nobody can be asked');
  expect((await aegis(['access', 'sign', file, ...second, '--yes'])).code).toBe(0);
  const done = await aegis(['submit', '--signed', file]);
  expect([done.code, done.stdout]).toEqual([0, 'two\n']);
  const twice = await aegis(['submit', '--signed', file]);
  expect([twice.code, twice.stderr]).toEqual([1, expect.stringContaining('What was signed was submitted before')]);
  // What two have started, one may stop.
  writeFileSync(
    file,
    (await aegis(['submit', '-t', 'strict-1', ...signs('bob'), '--sign-only', '--', 'sleep', '600'])).stdout,
  );
  await aegis(['access', 'sign', file, ...second, '--yes']);
  const sleeping = await aegis(['submit', '--signed', file, '-d']);
  const running = () => strict.daemon?.status().running;
  await waitFor('it to run', () => running() === 1, 20_000);
  expect((await aegis(['commands', 'cancel', sleeping.stdout.trim(), ...signs('bob')])).code).toBe(0);
  await waitFor('it to end', () => running() === 0, 20_000);
  // What is between the signers may not change a word.
  const tampered = JSON.parse(again.stdout);
  tampered.payload = Buffer.from(Buffer.from(tampered.payload, 'base64').toString().replace('"two"', '"TWO"')).toString(
    'base64',
  );
  writeFileSync(file, JSON.stringify(tampered));
  const refused = await aegis(['submit', '--signed', file]);
  expect([refused.code, refused.stderr]).toEqual([252, expect.stringContaining('is not a good one')]);
});

test('a node says offline what it would obey, and why', async () => {
  policy('obey = "operators"\n[commands]\nusers = ["nobody"]\n');
  const file = join(folder, 'check.json');
  const signed = await aegis([
    'submit',
    '-t',
    'site=fra',
    ...signs('bob'),
    '--sign-only',
    '--user',
    'nobody',
    '--',
    'id',
  ]);
  writeFileSync(file, signed.stdout);
  const check = (more: readonly string[] = [], env = {}) =>
    aegis([...['daemon', 'policy', 'check', file, '--data-dir', strict.dataDir], ...more], {
      AEGIS_POLICY_FILE: join(folder, 'policy.toml'),
      AEGIS_SITE: 'fra',
      AEGIS_LABELS: 'env=prod',
      ...env,
    });
  const good = await check();
  expect([good.code, good.stdout.split('\n').map((line) => line.slice(0, 14).trim())]).toEqual([
    0,
    [
      'ok  signature',
      'ok  form',
      'ok  fleet',
      'ok  target',
      'ok  obey',
      'ok  user',
      'ok  seen',
      'ok  attempts',
      'ok  time',
      'It would be ob',
      '',
    ],
  ]);
  expect(good.stderr).toBe('');
  expect((await check([], { AEGIS_LABELS: undefined })).stderr).toContain('site and labels as in this shell');
  const other = await check(['--json'], { AEGIS_SITE: 'ams' });
  expect([other.code, JSON.parse(other.stdout)]).toMatchObject([
    1,
    {
      obeyed: false,
      node: { name: 'strict-1', site: 'ams' },
      steps: [{}, {}, {}, { rule: 'target', good: false, code: 'access.wrong_target' }],
    },
  ]);
  writeFileSync(join(folder, 'other.toml'), 'obey = { threshold = 2 }\n', { mode: 0o600 });
  const stricter = await check(['--policy', join(folder, 'other.toml')]);
  expect([stricter.code, stricter.stdout]).toEqual([1, expect.stringContaining('NO  obey')]);
  const others = await aegis([
    'daemon',
    'policy',
    'show',
    '--data-dir',
    strict.dataDir,
    '--policy',
    join(folder, 'other.toml'),
  ]);
  expect(others.stdout).toMatch(/\ncancel +operators +any +any\nartifacts +2 persons +any +any\n/);
  expect((await check(['--attempt', '2'])).code).toBe(1);
  writeFileSync(join(folder, 'other.toml'), 'obey = "nobody"\n');
  expect((await check(['--policy', join(folder, 'other.toml')])).code).toBe(2);
  expect((await aegis(['daemon', 'policy', 'check', file, '--data-dir', join(folder, 'empty')])).code).toBe(2);
  writeFileSync(file, '{}');
  expect((await check()).code).toBe(2);

  const shown = await aegis(
    ['daemon', 'policy', 'show', '--data-dir', strict.dataDir, '--policy', join(folder, 'policy.toml')],
    { AEGIS_SITE: 'fra' },
  );
  expect(shown).toEqual({
    code: 0,
    stdout: `policy: ${join(folder, 'policy.toml')}
node:   strict-1
site:   fra
FOR        OBEYS      USERS   LONGEST
commands   operators  nobody  any
cancel     operators  any     any
artifacts  operators  any     any
backups    operators  any     any
messages   operators  any     any
`,
    stderr: '',
  });
});

test('assignments, too, are what operators signed: put on, taken off, and by two persons', async () => {
  policy('obey = "operators"\n');
  const { publish } = await registry(fleet.server);
  await publish('probe', '1.0.0');
  await publish('probe', '2.0.0');
  const status = async () => {
    const { items } = await fleet.server.as('viewer').call(allStatus, { query: { name: 'probe' } });
    const [item] = items.filter(({ node }) => node === 'strict-1');
    return item && `${item.report?.version ?? 'none'} ${item.report?.state} ${item.report?.reason?.code ?? ''}`.trim();
  };
  const shows = (text: string) => waitFor(`the node to say ${text}`, async () => (await status()) === text, 20_000);

  // Which artifact an id is, and which version the newest, only the server knows: nobody signs its word for it.
  const { artifacts } = await fleet.server.as('viewer').call(listArtifacts, { query: { name: 'probe' } });
  const [{ artifact_id: id } = { artifact_id: '' }] = artifacts;
  for (const asked of [
    ['assign', 'probe'],
    ['assign', id],
    ['assign', '--only', id],
    ['unassign', id],
  ]) {
    const refused = await aegis([...asked, 'strict-1', ...signs('bob')]);
    expect([asked, refused.code, refused.stderr]).toEqual([asked, 2, expect.stringContaining('NAME')]);
  }
  expect(await status()).toBe(undefined);
  expect((await aegis(['assign', 'probe@1.0.0', 'strict-1'])).code).toBe(0);
  await shows('none failed access.policy');
  const signed = await aegis(['assign', 'probe@1.0.0', 'site=fra', 'strict-1', '--wait', ...signs('bob')]);
  expect(signed.code).toBe(0);
  await shows('1.0.0 attached');
  // The server's word takes nothing off, and brings nothing else.
  await aegis(['unassign', 'probe', 'strict-1']);
  await shows('1.0.0 attached access.policy');
  await aegis(['assign', 'probe@2.0.0', 'strict-1']);
  await waitFor('version 2 to be refused', async () => {
    const { items } = await fleet.server.as('viewer').call(allStatus, { query: { name: 'probe' } });
    return items.some(
      ({ generation, report }) => generation === report?.generation && report.reason?.code === 'access.policy',
    );
  });
  expect(await status()).toBe('1.0.0 attached access.policy');

  policy('obey = { threshold = 2 }\n');
  expect((await aegis(['assign', 'probe@2.0.0', 'strict-1', ...signs('bob')])).code).toBe(0);
  await shows('1.0.0 attached access.policy');
  const alice = [...signs('alice'), '--key-password-file', join(folder, 'password')];
  expect((await aegis(['assign', 'probe@2.0.0', 'strict-1', '--wait', ...alice])).code).toBe(0);
  await shows('2.0.0 attached');
  policy('obey = "operators"\n');
  expect((await aegis(['unassign', 'probe', 'strict-1', '--wait', ...signs('bob')])).code).toBe(0);
});

test('backup configurations are made as ever, and signed where nodes want it; hooks of them are orders, too', async () => {
  policy('obey = "operators"\n');
  const spec = ['--source', '/etc/hostname', '--to', `file://${folder}/archives`, '--node', 'strict-1', '--no-probe'];
  const before = ['--before', 'touch /nowhere'];
  const made = await aegis(['backups', 'configs', 'create', 'etc', ...spec, ...before]);
  expect([made.code, made.stderr]).toEqual([0, expect.stringContaining('created')]);
  const configs = () => strict.daemon?.status().backups.configs;
  const sign = (...more: string[]) =>
    aegis(['nodes', 'sign', 'site=fra', '--kind', 'backups.config', ...signs('bob'), ...more]);
  const asked = await sign();
  expect([asked.code, asked.stderr]).toEqual([2, expect.stringContaining('touch /nowhere')]);
  expect(configs()).toBe(0);
  expect(await sign('--object', 'etc', '--yes', '--json')).toMatchObject({
    code: 0,
    stdout: expect.stringMatching(
      /^\{"signed":\[\{"node":"strict-1","kind":"backups.config",.*"generation":1\}\]\}\n$/,
    ),
  });
  await waitFor('the node to have it', () => configs() === 1, 20_000);
  // A change is another wish, which the server alone cannot bring, and neither can it take it off.
  const edit = ['backups', 'configs', 'edit', 'etc', '--before', 'touch /elsewhere', '--no-probe'];
  expect(await aegis(edit, { AEGIS_KEY: keyFile('bob') })).toMatchObject({
    code: 0,
    stderr: expect.stringContaining('aegis nodes sign NODE --kind backups.config --object etc'),
  });
  await aegis(['backups', 'configs', 'delete', 'etc', '--yes']);
  await waitFor('the node to have seen that', async () => {
    const { body } = await fleet.api.call('GET', '/api/v1/agents/strict-1/desired');
    const { wishes } = body as { wishes: { kind: string; generation: number }[] };
    return wishes.some(({ kind, generation }) => kind === 'backups.config' && generation > 1);
  });
  expect(configs()).toBe(1);
  expect((await sign('--yes')).code).toBe(0);
  await waitFor('the node to have forgotten it', () => configs() === 0, 20_000);
  // Who says all of one signs it with that; a file that says the same later signs nothing new, and one that differs does.
  const own = await aegis(['backups', 'configs', 'create', 'own', ...spec, ...before, ...signs('bob')]);
  expect([own.code, own.stderr]).toEqual([0, expect.stringContaining('created')]);
  await waitFor('the node to have that', () => configs() === 1, 20_000);
  const file = join(folder, 'own.toml');
  writeFileSync(file, (await aegis(['backups', 'configs', 'show', 'own', '--toml'])).stdout);
  const applied = () => aegis(['backups', 'configs', 'apply', file, '--no-probe', '--json', ...signs('bob')]);
  expect(JSON.parse((await applied()).stdout)).toMatchObject({ configs: [{ changed: false }] });
  writeFileSync(file, readFileSync(file, 'utf8').replace('touch /nowhere', 'touch /anywhere'));
  expect(JSON.parse((await applied()).stdout)).toMatchObject({ configs: [{ changed: true }] });
  await waitFor('the node to have the change', async () => {
    const { body } = await fleet.api.call('GET', '/api/v1/agents/strict-1/desired');
    const { wishes } = body as { wishes: { body: { name?: string }; operator_directive: object | null }[] };
    return wishes.some(({ body, operator_directive }) => body.name === 'own' && operator_directive !== null);
  });
  await waitFor('the node to run by it', async () => {
    const { stdout } = await aegis(['backups', 'configs', 'show', 'own', '--json']);
    const { node_states } = JSON.parse(stdout) as { node_states: { generation: number; taken: boolean }[] };
    return node_states[0]?.generation === 2 && node_states[0].taken;
  });
  const unsignable = ['--node', 'status=online', '--source', '/etc', '--to', `file://${folder}/x`, '--no-probe'];
  expect(await aegis(['backups', 'configs', 'create', 'other', ...unsignable, ...signs('bob')])).toMatchObject({
    code: 2,
    stderr: expect.stringContaining("cannot select by 'status'"),
  });
  expect((await aegis(['backups', 'configs', 'list'])).stdout).not.toContain('other');
});
