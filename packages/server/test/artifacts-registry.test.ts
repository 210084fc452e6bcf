import { revokeKey } from '@aegis/protocol/access/endpoints';
import {
  artifactBinary,
  assignArtifact,
  createArtifact,
  deleteArtifact,
  listArtifacts,
  showArtifact,
  unassignArtifact,
} from '@aegis/protocol/artifacts/endpoints';
import { describe, expect, test } from 'vitest';
import {
  blobsOf,
  bundle,
  directivesOf,
  publish,
  registry,
  sentence,
  signatory,
  signatureOf,
  trustedSignatory,
} from './artifacts-support.ts';
import { refusal, STORAGES, sha256 } from './commands-support.ts';
import { handClock, startTestServer } from './start-test-server.ts';

/** What is published: taken, refused, listed, handed out, deleted. */

describe.each(STORAGES)('%s', (storage) => {
  test('a bundle is stored with what its manifest says; the same bytes again are 200, others are refused', async () => {
    const clock = handClock();
    await using server = await startTestServer({ storage, clock });
    const { signer, operator } = await registry(server);
    const one = await bundle('block-icmp', '1.0.0');
    const signature = signatureOf(one, signer);
    const artifact = await publish(operator, one, signature);
    expect(artifact).toEqual({
      artifact_id: expect.stringMatching(/^[0-9a-f-]{36}$/),
      name: 'block-icmp',
      version: '1.0.0',
      description: 'what block-icmp is for',
      type: 'program',
      architecture: 'any',
      kernel_version: '5.15',
      tags: ['test'],
      metadata: { target_ip: '192.0.2.1' },
      checksum: sha256(one.bytes),
      size: one.bytes.length,
      signed: true,
      signature,
      signer: { keyid: signer.keys.keyId, name: 'release', state: 'active' },
      assigned: 0,
      created_at: new Date(clock.now()).toISOString(),
      created_by: 'test-operator',
    });
    const send = (data: Buffer, more: object = {}) =>
      operator.send(createArtifact, {
        body: { name: 'block-icmp', version: '1.0.0', data: data.toString('base64'), signature, ...more },
      });
    const again = await send(one.bytes);
    expect([again.status, again.json]).toEqual([200, artifact]);
    const other = await bundle('block-icmp', '1.0.0', { description: 'another' });
    const refused = await send(other.bytes, { signature: signatureOf(other, signer) });
    expect([refused.status, refused.json]).toMatchObject([
      409,
      {
        error: {
          code: 'artifacts.version_taken',
          message: `block-icmp 1.0.0 is another bundle (SHA-256 ${sha256(one.bytes).slice(0, 16)}…). A version never changes: give this one a new version.`,
        },
      },
    ]);
    expect(blobsOf(server)).toEqual([sha256(one.bytes)]);
    await server.restart();
    expect(await server.as('viewer').call(showArtifact, { params: { id: artifact.artifact_id } })).toMatchObject({
      ...artifact,
      manifest: { name: 'block-icmp', programs: [{ name: 'drop' }], objects: [{ file: 'block-icmp.bpf.o' }] },
    });
    expect(
      (await server.as('viewer').raw('GET', `/artifacts/${artifact.artifact_id}/binary`)).headers.get('etag'),
    ).toBe(`"${sha256(one.bytes)}"`);
  });

  test('what is said beside the bundle has to be what its manifest says', async () => {
    await using server = await startTestServer({ storage });
    const { signer, operator } = await registry(server);
    const one = await bundle('block-icmp', '1.0.0', { tags: ['a', 'b'], metadata: { policy_type: 'network_block' } });
    const send = (more: object) =>
      sentence(
        operator.call(createArtifact, {
          body: {
            name: one.name,
            version: one.version,
            data: one.bytes.toString('base64'),
            signature: signatureOf(one, signer),
            ...more,
          },
        }),
      );
    const says = (field: string, given: string, stands: string) =>
      `422 artifacts.field_mismatch: '${field}' says ${given}, the bundle's manifest ${stands}. Send what the manifest says, or leave it out.`;
    expect({
      name: await send({ name: 'other' }),
      version: await send({ version: '1.0.1' }),
      description: await send({ description: 'x' }),
      type: await send({ type: 'policy' }),
      architecture: await send({ architecture: 'x86_64' }),
      kernel_version: await send({ kernel_version: '5.4.0' }),
      tags: await send({ tags: ['a'] }),
      'a value': await send({ metadata: { policy_type: 'x' } }),
      'a key too many': await send({ metadata: { policy_type: 'network_block', constructor: 'x' } }),
      'no base64': await send({ data: 'AAA' }),
      'base64 with a hole': await send({ data: 'AA*A' }),
    }).toEqual({
      name: says('name', "'other'", "'block-icmp'"),
      version: says('version', "'1.0.1'", "'1.0.0'"),
      description: says('description', "'x'", "'what block-icmp is for'"),
      type: says('type', "'policy'", "'program'"),
      architecture: says('architecture', "'x86_64'", "'any'"),
      kernel_version: says('kernel_version', "'5.4.0'", "'5.15'"),
      tags: says('tags', "'a'", "'a, b'"),
      'a value': says('metadata.policy_type', "'x'", "'network_block'"),
      'a key too many': says('metadata.constructor', "'x'", 'nothing'),
      'no base64': "400 http.malformed: The body's field 'data' is not base64 with padding (RFC 4648, section 4).",
      'base64 with a hole':
        "400 http.malformed: The body's field 'data' is not base64 with padding (RFC 4648, section 4).",
    });
    expect(await send({ tags: ['b', 'a'], metadata: { policy_type: 'network_block' } })).toBe('it was not refused');
  });

  test('signatures: wrong, foreign, revoked, missing', async () => {
    await using server = await startTestServer({ storage });
    const admin = server.as('admin');
    const { signer, operator } = await registry(server);
    const retired = await trustedSignatory(admin, 'retired');
    await admin.call(revokeKey, { params: { id: retired.minisignId } });
    const one = await bundle('a', '1.0.0');
    const two = await bundle('a', '2.0.0');
    const try_ = (signature: string | undefined) => refusal(publish(operator, one, signature));
    expect({
      none: await try_(undefined),
      garbage: await try_('garbage'),
      "another bundle's": await try_(signatureOf(two, signer)),
      'of other bytes': await try_(signatureOf({ ...one, bytes: two.bytes }, signer)),
      'of a stranger': await try_(signatureOf(one, signatory())),
      'of a stranger under a known id': await try_(signatureOf(one, { ...signatory(), minisignId: signer.minisignId })),
      'of a revoked key': await try_(signatureOf(one, retired)),
    }).toEqual({
      none: [422, 'artifacts.unsigned'],
      garbage: [403, 'artifacts.bad_signature'],
      "another bundle's": [403, 'artifacts.bad_signature'],
      'of other bytes': [403, 'artifacts.bad_signature'],
      'of a stranger': [403, 'artifacts.unknown_signer'],
      'of a stranger under a known id': [403, 'artifacts.bad_signature'],
      'of a revoked key': [403, 'artifacts.revoked_signer'],
    });
    expect(await refusal(publish(operator, { ...one, bytes: one.bytes.subarray(0, -1) }, 'x'))).toEqual([
      422,
      'artifacts.bad_bundle',
    ]);
    expect(blobsOf(server)).toEqual([]);
    expect((await operator.call(listArtifacts)).total).toBe(0);
  });

  test('under --dev an unsigned one is stored and marked; a good signature is added later, and nodes are told anew', async () => {
    await using server = await startTestServer({ storage, config: { dev: true } });
    const { signer, operator } = await registry(server);
    const node = await server.enrol('n');
    const one = await bundle('a', '1.0.0');
    const unsigned = await publish(operator, one);
    expect(unsigned).toMatchObject({ signed: false, signature: null, signer: null });
    await operator.call(assignArtifact, { params: { artifact_id: unsigned.artifact_id, host_id: 'n' }, body: {} });
    const [before] = await directivesOf(server, node);
    expect(before).toMatchObject({ generation: 1, body: { signature: null } });
    expect(await refusal(publish(operator, one, signatureOf(one, signatory())))).toEqual([
      403,
      'artifacts.unknown_signer',
    ]);
    const signature = signatureOf(one, signer);
    const signed = await publish(operator, one, signature);
    expect(signed).toEqual({
      ...unsigned,
      assigned: 1,
      signed: true,
      signature,
      signer: { keyid: signer.keys.keyId, name: 'release', state: 'active' },
    });
    const [after] = await directivesOf(server, node);
    expect(after).toMatchObject({ generation: 2, body: { signature } });
    // A signature that holds stays; one whose key was revoked gives way.
    const second = await trustedSignatory(server.as('admin'), 'second');
    const again = signatureOf(one, second);
    expect(await publish(operator, one, again)).toEqual(signed);
    await server.as('admin').call(revokeKey, { params: { id: signer.minisignId } });
    expect(await publish(operator, one, again)).toMatchObject({ signature: again, signer: { name: 'second' } });
    expect(await directivesOf(server, node)).toMatchObject([{ generation: 3, body: { signature: again } }]);
  });

  test('lists: the newest first, filtered, in pages', async () => {
    await using server = await startTestServer({ storage });
    const at = await registry(server);
    await at.publish('a', '1.0.0', { tags: ['net', 'x'] });
    await at.publish('a', '1.1.0', { tags: ['net-y'], architecture: 'x86_64' });
    await at.publish('b', '1.0.0', { type: 'policy' });
    const viewer = server.as('viewer');
    const list = async (query: object) => {
      const { artifacts, total } = await viewer.call(listArtifacts, { query });
      return [total, ...artifacts.map(({ name, version }) => `${name}@${version}`)];
    };
    expect({
      all: await list({}),
      name: await list({ name: 'a' }),
      version: await list({ version: '1.0.0' }),
      tag: await list({ tag: 'net' }),
      type: await list({ type: 'policy' }),
      architecture: await list({ architecture: 'x86_64' }),
      'a quote': await list({ tag: '"' }),
      nothing: await list({ name: 'c' }),
    }).toEqual({
      all: [3, 'b@1.0.0', 'a@1.1.0', 'a@1.0.0'],
      name: [2, 'a@1.1.0', 'a@1.0.0'],
      version: [2, 'b@1.0.0', 'a@1.0.0'],
      tag: [1, 'a@1.0.0'],
      type: [1, 'b@1.0.0'],
      architecture: [1, 'a@1.1.0'],
      'a quote': [0],
      nothing: [0],
    });
    const first = await viewer.call(listArtifacts, { query: { limit: 2 } });
    const second = await viewer.call(listArtifacts, { query: { limit: 2, cursor: first.next_cursor ?? '' } });
    expect([first, second].map((page) => [page.total, page.artifacts.length, page.next_cursor === null])).toEqual([
      [3, 2, false],
      [3, 1, true],
    ]);
  });

  test('the bundle as bytes: whole, in ranges, unchanged; to a node only what is assigned to it', async () => {
    await using server = await startTestServer({ storage });
    const { signer, operator } = await registry(server);
    const node = await server.enrol('n');
    const other = await server.enrol('other');
    const one = await bundle('a', '1.0.0');
    const { artifact_id } = await publish(operator, one, signatureOf(one, signer));
    const path = `/artifacts/${artifact_id}/binary`;
    const get = async (headers: Record<string, string> = {}) => {
      const answer = await fetch(`${server.url}${path}`, {
        headers: { ...headers, authorization: `Bearer ${node.token}` },
      });
      const named = [
        'content-type',
        'content-length',
        'content-range',
        'etag',
        'repr-digest',
        'accept-ranges',
        'cache-control',
        'content-disposition',
      ];
      return {
        status: answer.status,
        headers: Object.fromEntries(
          named.flatMap((name) => (answer.headers.has(name) ? [[name, answer.headers.get(name)]] : [])),
        ),
        bytes: Buffer.from(await answer.arrayBuffer()),
      };
    };
    expect((await get()).status).toBe(404);
    await operator.call(assignArtifact, { params: { artifact_id, host_id: 'n' }, body: {} });
    const size = one.bytes.length;
    const digest = sha256(one.bytes);
    const always = {
      etag: `"${digest}"`,
      'repr-digest': `sha-256=:${Buffer.from(digest, 'hex').toString('base64')}:`,
      'accept-ranges': 'bytes',
      'cache-control': 'private, max-age=31536000, immutable',
    };
    const whole = {
      status: 200,
      headers: {
        ...always,
        'content-type': 'application/zstd',
        'content-length': String(size),
        'content-disposition': 'attachment; filename="a-1.0.0.tar.zst"',
      },
      bytes: one.bytes,
    };
    const part = (from: number, to: number) => ({
      status: 206,
      headers: {
        ...whole.headers,
        'content-length': String(to - from + 1),
        'content-range': `bytes ${from}-${to}/${size}`,
      },
      bytes: one.bytes.subarray(from, to + 1),
    });
    expect(await get()).toEqual(whole);
    expect(await get({ range: 'bytes=0-9' })).toEqual(part(0, 9));
    expect(await get({ range: 'bytes=-5' })).toEqual(part(size - 5, size - 1));
    expect(await get({ range: 'bytes=10-', 'if-range': `"${digest}"` })).toEqual(part(10, size - 1));
    expect(await get({ range: 'bytes=10-', 'if-range': '"other"' })).toEqual(whole);
    expect(await get({ range: 'bytes=0-1,3-4' })).toEqual(whole);
    expect(await get({ range: `bytes=${size}-` })).toEqual({
      status: 416,
      headers: { ...always, 'content-range': `bytes */${size}`, 'content-length': '0' },
      bytes: Buffer.alloc(0),
    });
    for (const known of [`"${digest}"`, `"x", W/"${digest}"`, '*'])
      expect(await get({ 'if-none-match': known })).toEqual({ status: 304, headers: always, bytes: Buffer.alloc(0) });
    expect((await get({ 'if-none-match': '"x"' })).status).toBe(200);
    expect(await refusal(other.call(artifactBinary, { params: { id: artifact_id } }))).toEqual([
      404,
      'artifacts.not_assigned',
    ]);
    expect((await server.as('viewer').raw('GET', path)).status).toBe(200);
  });

  test('deleted: not while assigned; then its version names these bytes for ever, and comes back with them', async () => {
    await using server = await startTestServer({ storage });
    const { signer, operator } = await registry(server);
    await server.enrol('n');
    const one = await bundle('a', '1.0.0');
    const signature = signatureOf(one, signer);
    const artifact = await publish(operator, one, signature);
    const params = { artifact_id: artifact.artifact_id, host_id: 'n' };
    const id = { id: artifact.artifact_id };
    await operator.call(assignArtifact, { params, body: {} });
    expect(await sentence(operator.call(deleteArtifact, { params: id }))).toBe(
      '409 artifacts.assigned: a 1.0.0 is assigned to n. Unassign it there first.',
    );
    await operator.call(unassignArtifact, { params });
    expect(await operator.call(deleteArtifact, { params: id })).toEqual(artifact);
    expect(blobsOf(server)).toEqual([]);
    expect(await refusal(operator.call(deleteArtifact, { params: id }))).toEqual([404, 'artifacts.unknown_artifact']);
    expect(await refusal(operator.call(showArtifact, { params: id }))).toEqual([404, 'artifacts.unknown_artifact']);
    expect(await operator.call(listArtifacts)).toEqual({ artifacts: [], total: 0, next_cursor: null });
    const other = await bundle('a', '1.0.0', { description: 'another' });
    expect(await sentence(publish(operator, other, signatureOf(other, signer)))).toBe(
      `409 artifacts.version_taken: a 1.0.0 was, until it was deleted, another bundle (SHA-256 ${sha256(one.bytes).slice(0, 16)}…). A version never changes: give this one a new version.`,
    );
    const back = await operator.send(createArtifact, {
      body: { name: 'a', version: '1.0.0', data: one.bytes.toString('base64'), signature },
    });
    expect([back.status, back.json]).toEqual([201, { ...artifact, created_at: expect.any(String) }]);
  });

  test('a race for one version: one bundle has it, whoever sent it', async () => {
    await using server = await startTestServer({ storage });
    const { signer, operator } = await registry(server);
    const made = await Promise.all(
      Array.from({ length: 6 }, (_, at) => bundle('a', '1.0.0', { description: `${at % 3}` })),
    );
    const answers = await Promise.all(
      made.map((one) =>
        operator.send(createArtifact, {
          body: {
            name: 'a',
            version: '1.0.0',
            data: one.bytes.toString('base64'),
            signature: signatureOf(one, signer),
          },
        }),
      ),
    );
    expect(answers.map(({ status }) => status).sort()).toEqual([200, 201, 409, 409, 409, 409]);
    const { artifacts } = await operator.call(listArtifacts);
    expect(blobsOf(server)).toEqual(artifacts.map(({ checksum }) => checksum));
  });

  test('as many as there may be', async () => {
    await using server = await startTestServer({ storage, config: { 'artifacts.max_artifacts': 1 } });
    const at = await registry(server);
    const first = await at.publish('a', '1.0.0');
    expect(await sentence(at.publish('a', '1.1.0'))).toBe(
      '409 artifacts.limit: There are 1 artifacts, as many as there may be (artifacts.max_artifacts). Delete some that nobody needs, or raise that setting.',
    );
    expect(blobsOf(server)).toEqual([first.checksum]);
    await at.operator.call(deleteArtifact, { params: { id: first.artifact_id } });
    await at.publish('a', '1.1.0');
    expect(await refusal(at.publish('a', '1.0.0'))).toEqual([409, 'artifacts.limit']);
  });
});
