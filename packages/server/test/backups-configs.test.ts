import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  assignConfig,
  type ConfigAnswer,
  configNodes,
  deleteConfig,
  listConfigs,
  probeConfig,
  showConfig,
} from '@aegis/protocol/backups/endpoints';
import { describe, expect, test } from 'vitest';
import { sentence } from './artifacts-support.ts';
import { create, desiredOf, put, spec } from './backups-support.ts';
import { STORAGES } from './commands-support.ts';
import { handClock, startTestServer, type TestServer } from './start-test-server.ts';

/** Configurations: created, changed, listed, assigned and removed, with what each refusal says. */

const S3 = { kind: 's3', bucket: 'backups', endpoint: 'http://127.0.0.1:1', path_style: true };
const KEYS = { access_key_id: 'AKIAONE', secret_access_key: 'a-secret-of-one' };
const names = ({ nodes }: ConfigAnswer) => nodes;
const show = (server: TestServer, id: string) => server.as('viewer').call(showConfig, { params: { id } });

describe.each(STORAGES)('%s', (storage) => {
  test('a configuration’s whole life: created, shown, changed with its differences, listed, deleted, created anew', async () => {
    const clock = handClock();
    await using server = await startTestServer({ storage, clock });
    const node = await server.enrol('web-1');
    const made = await create(server, { nodes: ['web-1'] });
    const at = new Date(clock.now()).toISOString();
    expect(made.config).toEqual({
      ...spec({ nodes: ['web-1'] }),
      config_id: expect.any(String),
      credentials: null,
      revision: 1,
      created_at: at,
      created_by: 'test-operator',
      updated_at: at,
      updated_by: 'test-operator',
      assigned: 1,
      last_run: null,
      probe: null,
    });
    expect([made.changed, names(made)]).toEqual([true, { added: ['web-1'], removed: [], unchanged: 0 }]);
    expect(made.diff.find(({ field }) => field === 'destination.path')).toEqual({
      field: 'destination.path',
      before: null,
      after: '"/backup"',
    });
    const id = made.config.config_id;
    expect([await show(server, 'home'), await show(server, id)]).toEqual([made.config, made.config]);

    clock.advance(1000);
    const dry = await put(server, 'home', { nodes: ['web-1'], compression: { level: 5 } }, { dry_run: true });
    const level = { field: 'compression.level', before: '3', after: '5' };
    expect([dry.changed, dry.diff, names(dry)]).toEqual([true, [level], { added: [], removed: [], unchanged: 1 }]);
    expect(await show(server, 'home')).toEqual(made.config);
    const changed = await put(server, id, { nodes: ['web-1'], compression: { level: 5 } }, { if_revision: 1 });
    expect([changed.config.revision, changed.diff]).toEqual([2, [level]]);
    expect(changed.config.updated_at).toBe(new Date(clock.now()).toISOString());
    const same = await put(server, 'home', { nodes: ['web-1'], compression: { level: 5 } });
    expect([same.changed, same.diff, same.config]).toEqual([false, [], changed.config]);
    const renamed = await put(server, 'home', { name: 'house', nodes: ['web-1'] });
    expect(renamed.diff.map(({ field, after }) => [field, after])).toEqual([
      ['compression.level', '3'],
      ['name', '"house"'],
    ]);
    expect((await desiredOf(server, node)).directives).toMatchObject([{ generation: 3, object_id: id }]);

    await create(server, { name: 'etc', sources: ['/etc'] });
    const list = (query: Record<string, unknown>) => server.as('viewer').call(listConfigs, { query });
    const first = await list({ limit: 1 });
    const second = await list({ limit: 1, cursor: first.next_cursor ?? undefined });
    expect([...first.items, ...second.items].map(({ name }) => name)).toEqual(['etc', 'house']);
    expect((await list({ node: 'web-1' })).items.map(({ name }) => name)).toEqual(['house']);

    const gone = await server.as('operator').call(deleteConfig, { params: { id: 'house' } });
    expect(gone.config_id).toBe(id);
    expect(await sentence(show(server, 'house'))).toBe(
      "404 backups.unknown_config: No backup configuration 'house'. See 'aegis backups configs list'.",
    );
    expect((await desiredOf(server, node)).directives).toMatchObject([
      { generation: 4, body: { state: 'absent', config_id: id } },
    ]);
    const anew = await create(server, { name: 'house' });
    expect(anew.config.config_id).not.toBe(id);
  });

  test('what is refused, and that nothing is stored then', async () => {
    await using server = await startTestServer({
      storage,
      config: {
        'backups.max_configs': 2,
        'backups.server_sources': ['/home'],
        'backups.server_destinations': ['/backup'],
      },
    });
    const node = await server.enrol('web-1');
    await create(server, { nodes: ['web-1'] });
    const refused = (more: Record<string, unknown>, change: Record<string, unknown> = {}) =>
      sentence(create(server, { name: 'other', ...more }, change));
    const uid = node.uid;
    const cases: [string, string][] = [
      [
        await refused({ name: 'home' }),
        "409 backups.name_taken: There is a backup configuration 'home' already. Change it with 'aegis backups configs apply' or 'edit', or choose another name.",
      ],
      [
        await refused({ name: uid }),
        '422 backups.bad_config: name: a name that looks like an id could not be told from one. Choose a word.',
      ],
      [
        await refused({ schedule: { cron: '61 2 * * *' } }),
        `422 backups.bad_config: schedule.cron: '61 2 * * *' is not a cron expression: Invalid value for minute: 61. Five fields as in "30 2 * * *", six with seconds, or @daily and its like.`,
      ],
      [
        await refused({ schedule: { cron: '0 0 31 2 *' } }),
        "422 backups.bad_config: schedule.cron: '0 0 31 2 *' names no time that ever comes. Check day and month.",
      ],
      [
        await refused({ encryption: { recipients: [`age1${'q'.repeat(58)}`] } }),
        `422 backups.bad_recipient: 'age1qqqqqqqq…' is not an age recipient: its checksum is w`,
      ],
      [
        await refused({ nodes: ['web-1', 'web-2', 'web-3'] }),
        "422 backups.unknown_target: No node named 'web-2', 'web-3': nothing was changed. See 'aegis nodes list'.",
      ],
      [
        await refused({ nodes: ['site=fra and'] }),
        "422 backups.bad_config: The selector 'site=fra and' is not understood: it ends too early. Example: site=fra and not label.env=prod",
      ],
      [
        await refused({ nodes: ['not status=offline'] }),
        "422 backups.bad_config: The selector 'not status=offline' asks for a status, which comes and goes: a node that is offline would lose its configuration. Select by name, site, capability, os, engine or label.",
      ],
      [
        await refused({ nodes: Array.from({ length: 21 }, (_, at) => `label.a=${at}`) }),
        "422 backups.bad_config: 21 selectors are more than the 20 that one configuration takes. Join them with 'or', or name the nodes.",
      ],
      [
        await refused({ destination: { ...S3, access: 'static' } }),
        "422 backups.bad_config: destination.access = 'static' hands the configuration's own credentials to its nodes, and it has none. Give it credentials, or use 'signed'.",
      ],
      [
        await refused({ destination: { ...S3, ca: '-----BEGIN CERTIFICATE-----\nno\n-----END CERTIFICATE-----' } }),
        "422 backups.bad_config: destination.ca is no certificate: give the PEM of the authority that signed the endpoint's (BEGIN CERTIFICATE).",
      ],
      [
        await refused({ exclude: { patterns: ['*.tmp', '[a'] } }),
        "422 backups.bad_config: The exclude pattern '[a' is malformed: close its brackets, and put \\ before a [ or \\ that is meant as such.",
      ],
      [
        await refused({ exclude: { if_present: ['../secret'] } }),
        "422 backups.bad_config: The marker '../secret' is not of the form NAME or NAME:HEADER, where NAME is a file's name without folders.",
      ],
      [
        await refused({}, { credentials: KEYS }),
        "422 backups.bad_config: A configuration with a 'file' destination has no use for credentials. Leave them out, or set them to null.",
      ],
      [
        await refused({ sources: ['/home', '/backup/old'] }),
        '422 backups.bad_config: sources: /backup/old lies inside the destination /backup. An archive of archives grows without end: choose another folder.',
      ],
      [
        await refused({ exclude: { patterns: Array.from({ length: 200 }, () => 'x'.repeat(4000)) } }),
        '422 backups.bad_config: The configuration is larger than the 512 KiB that a node takes. Put long lists of patterns into exclude.files on the node.',
      ],
      [
        await sentence(put(server, 'other', { name: 'another' })),
        "422 backups.bad_config: The path says 'other', which is not there, and the configuration 'another'. Let both say the same to create it.",
      ],
      [
        await sentence(put(server, node.uid, { name: 'another' })),
        `404 backups.unknown_config: No backup configuration '${node.uid}'. See 'aegis backups configs list'.`,
      ],
      [
        await sentence(put(server, 'home', { nodes: ['web-1'] }, { if_revision: 7 })),
        "409 backups.conflict: 'home' was changed meanwhile and is at revision 1. Look at it again ('aegis backups configs show home') and repeat your change.",
      ],
      [
        await sentence(put(server, 'other', { name: 'other' }, { if_revision: 7 })),
        "409 backups.conflict: 'other' is not there any more, or never was: it has no revision. Leave if_revision out to create it.",
      ],
      [
        await sentence(server.as('operator').call(probeConfig, { params: { id: 'home' } })),
        "422 backups.unsupported: 'home' goes to a folder of the machine that makes the backup: only that one can look at it.",
      ],
      [
        await sentence(
          server.as('operator').call(assignConfig, { params: { id: 'home' }, body: { remove: ['web-9'] } }),
        ),
        "422 backups.unknown_target: 'home' does not name 'web-9': it names 'web-1'. Nothing was changed.",
      ],
      [
        await sentence(server.as('viewer').call(configNodes, { params: { id: 'none' } })),
        "404 backups.unknown_config: No backup configuration 'none'. See 'aegis backups configs list'.",
      ],
    ];
    for (const [told, expected] of cases) expect(told.slice(0, expected.length)).toBe(expected);
    expect((await server.as('viewer').call(listConfigs)).items.map(({ name, revision }) => [name, revision])).toEqual([
      ['home', 1],
    ]);
    await create(server, { name: 'second' });
    expect(await refused({})).toBe(
      '413 backups.limit: There are 2 backup configurations already (backups.max_configs). Delete one, or raise that setting.',
    );
    expect(await sentence(put(server, 'second', { name: 'home' }))).toBe(
      "409 backups.name_taken: There is a backup configuration 'home' already. Change it with 'aegis backups configs apply' or 'edit', or choose another name.",
    );
    const mode = await put(server, 'second', { name: 'second', execution_mode: 'server' });
    expect(mode.config.execution_mode).toBe('server');
    expect(
      await sentence(server.as('operator').call(assignConfig, { params: { id: 'second' }, body: { add: ['web-1'] } })),
    ).toBe("422 backups.bad_config: 'second' backs up files of the control server itself and has no nodes.");
  });

  test('credentials: encrypted at rest, shown by no one, kept, replaced and taken away; runs keep their place', async () => {
    await using server = await startTestServer({ storage });
    const made = await create(server, { destination: S3 }, { credentials: KEYS });
    expect(made.config.credentials).toEqual({ access_key_id: 'AKIAONE' });
    const rows = () => server.running.storage.read.selectFrom('backups_destinations').selectAll().execute();
    const [row] = await rows();
    expect(JSON.stringify([row, made])).not.toContain(KEYS.secret_access_key);
    expect(Buffer.from(row?.credentials ?? '', 'base64').toString('latin1')).not.toContain('secret');
    const { vault, destinations } = server.running.backups.parts;
    expect(vault.decrypt(made.config.config_id, row?.credentials ?? '')).toEqual(KEYS);
    expect(readFileSync(join(server.dataDir, 'keys', 'backups-credentials.key'), 'utf8')).toHaveLength(44);

    const kept = await put(server, 'home', { destination: { ...S3, checksum: 'when_supported' } });
    expect(kept.diff).toEqual([
      { field: 'destination.checksum', before: '"when_required"', after: '"when_supported"' },
    ]);
    expect((await rows()).map(({ id, credentials }) => [id, credentials])).toEqual([[row?.id, row?.credentials]]);
    const rotated = await put(
      server,
      'home',
      { destination: S3 },
      { credentials: { ...KEYS, secret_access_key: 'another-secret' } },
    );
    expect(rotated.diff.map(({ field, before, after }) => [field, before, after])[0]).toEqual([
      'credentials',
      '{"access_key_id":"AKIAONE"}',
      '{"access_key_id":"AKIAONE"}',
    ]);
    expect(await rows()).toHaveLength(1);
    const moved = await put(server, 'home', { destination: { ...S3, bucket: 'elsewhere' } });
    const both = await rows();
    expect(both.map(({ destination }) => (JSON.parse(destination) as { bucket: string }).bucket)).toEqual([
      'backups',
      'elsewhere',
    ]);
    expect(moved.config.credentials).toEqual({ access_key_id: 'AKIAONE' });
    expect(await destinations.removeUnused()).toBe(1);
    const none = await put(server, 'home', { destination: { ...S3, bucket: 'elsewhere' } }, { credentials: null });
    expect([none.config.credentials, (await rows()).map(({ credentials }) => credentials)]).toEqual([null, [null]]);
    const other = Buffer.from(row?.credentials ?? '', 'base64');
    other[20] = (other[20] ?? 0) ^ 1;
    for (const [id, text] of [
      ['another-config', row?.credentials ?? ''],
      [made.config.config_id, other.toString('base64')],
    ] as const)
      expect(() => vault.decrypt(id, text)).toThrow(/were not encrypted with .*, or are damaged\. Restore that file/);
  });

  test('two changes made from the same revision: one is stored, the other refused', async () => {
    await using server = await startTestServer({ storage });
    await create(server);
    const both = await Promise.all(
      [4, 5].map((level) => sentence(put(server, 'home', { compression: { level } }, { if_revision: 1 }))),
    );
    expect(both.sort()).toEqual([
      "409 backups.conflict: 'home' was changed meanwhile and is at revision 2. Look at it again ('aegis backups configs show home') and repeat your change.",
      'it was not refused',
    ]);
    const several = await Promise.all(Array.from({ length: 5 }, () => sentence(create(server, { name: 'raced' }))));
    expect(several.filter((text) => text === 'it was not refused')).toHaveLength(1);
  });
});
