import type { Endpoint } from '@aegis/protocol/endpoint';
import { afterAll, beforeAll, describe, test } from 'vitest';
import { type BadInputStage, badInputStage, changed, MALFORMED, TOO_LARGE, TYPE } from '../fleet/bad-input-stage.ts';
import { allEndpoints, requestOf } from '../fleet/samples.ts';

/** What endpoints refuse although it is well-formed: for what it says. */

const MIB = 1024 * 1024;
const endpoints = await allEndpoints();

let on: BadInputStage;
beforeAll(async () => {
  on = await badInputStage();
});
afterAll(() => on.close());

describe('well-formed, and refused for what they say', () => {
  const named = (id: string): Endpoint => {
    const endpoint = endpoints.find((one) => one.id === id);
    if (!endpoint) throw new Error(`no endpoint ${id}`);
    return endpoint;
  };
  const with_ = (id: string, body: object, expected: readonly [number, string]) => ({
    asked: requestOf(on.staged, named(id), { body: { ...(on.staged.samples[id]?.body as object), ...body } }),
    expected,
  });
  test('submissions', () =>
    on.expectTable({
      'an unknown type': with_('submitCommand', { command_type: 'LaunchRockets' }, [422, 'commands.unsupported_type']),
      'an inherited type': with_('submitCommand', { command_type: 'toString' }, [422, 'commands.unsupported_type']),
      'a payload of another type': with_('submitCommand', { payload: { argv: 'true' } }, [
        422,
        'commands.invalid_payload',
      ]),
      'no payload': with_('submitCommand', { payload: undefined }, [422, 'commands.invalid_payload']),
      'both cmd and argv': with_('submitCommand', { payload: { cmd: 'true', argv: ['true'] } }, [
        422,
        'commands.invalid_payload',
      ]),
      'a NUL in an argument': with_('submitCommand', { payload: { argv: ['a\0b'] } }, [
        422,
        'commands.invalid_payload',
      ]),
      'standard input that is no base64': with_(
        'submitCommand',
        { payload: { cmd: 'cat', stdin: 'YWJj*', stdin_encoding: 'base64' } },
        [422, 'commands.invalid_payload'],
      ),
      'an unknown target': with_('submitCommand', { targets: 'nobody' }, [422, 'commands.unknown_target']),
      'no targets': with_('submitCommand', { targets: undefined }, [422, 'commands.no_target']),
      'a broken selector': with_('submitCommand', { targets: 'site=fra and (' }, [422, 'commands.bad_selector']),
      'a selector that matches nobody': with_('submitCommand', { targets: 'site=nowhere' }, [
        422,
        'commands.no_target',
      ]),
      'too late a start': with_('submitCommand', { scheduled_at: '2099-01-01T00:00:00Z' }, [
        422,
        'commands.invalid_payload',
      ]),
      'a start that does not exist': with_('submitCommand', { scheduled_at: '2026-02-30T00:00:00Z' }, [
        400,
        'http.malformed',
      ]),
    }));
  test('artifacts', async () => {
    const path = (id: string, params: Record<string, string>) => ({
      params: { ...on.staged.samples[id]?.params, ...params },
    });
    const to = (id: string, params: Record<string, string>, expected: readonly [number, string]) => ({
      asked: requestOf(on.staged, named(id), path(id, params)),
      expected,
    });
    await on.expectTable({
      'a bundle that is none': with_('createArtifact', { data: 'AAAA' }, [422, 'artifacts.bad_bundle']),
      'an empty bundle': with_('createArtifact', { data: '' }, [422, 'artifacts.bad_bundle']),
      'no base64': with_('createArtifact', { data: '*' }, MALFORMED),
      unsigned: with_('createArtifact', { signature: undefined }, [422, 'artifacts.unsigned']),
      'a signature that is none': with_('createArtifact', { signature: 'x' }, [403, 'artifacts.bad_signature']),
      'another name': with_('createArtifact', { name: 'other' }, [422, 'artifacts.field_mismatch']),
      'an artifact that is assigned': to('deleteArtifact', { id: on.staged.samples.showArtifact?.params?.id ?? '' }, [
        409,
        'artifacts.assigned',
      ]),
      'assigned to nobody': to('assignArtifact', { host_id: 'nobody' }, [404, 'artifacts.unknown_host']),
      "the seed's id": to('assignArtifact', { artifact_id: 'artifact_123' }, [404, 'artifacts.unknown_artifact']),
      'a constant that there is not': with_('assignArtifact', { constants: { colour: 1 } }, [
        422,
        'artifacts.unknown_constant',
      ]),
      'a constant that is fixed': with_('assignArtifact', { constants: { fixed: 1 } }, [422, 'artifacts.not_settable']),
      'a constant of another type': with_('assignArtifact', { constants: { target_ip: 'x' } }, [
        422,
        'artifacts.bad_constant',
      ]),
      'off nobody': to('unassignArtifact', { host_id: 'nobody' }, [404, 'artifacts.unknown_host']),
      'off where it is not': to('unassignArtifact', { host_id: on.staged.other.name }, [404, 'artifacts.not_assigned']),
      'hosts that there are not': with_('putHosts', { hosts: ['nobody'] }, [404, 'artifacts.unknown_host']),
      'targets that there are not': with_('assignMany', { targets: ['nobody'] }, [422, 'artifacts.unknown_target']),
      'a version that there is not': with_('assignMany', { artifact: 'stage@9.9.9' }, [
        404,
        'artifacts.unknown_artifact',
      ]),
      'a report of what is not assigned': with_('postArtifactStatus', { name: 'other' }, [
        404,
        'artifacts.not_assigned',
      ]),
      'a report of what was never issued': with_('postArtifactStatus', { generation: 2 }, [
        409,
        'artifacts.generation_conflict',
      ]),
    });
  });
  test("another node's executions", async () => {
    const { commandId: command_id, executionId: execution_id } = on.staged.other.running;
    const ids = { command_id, execution_id };
    const unknown = [404, 'commands.unknown_execution'] as const;
    await on.expectTable({
      'to acknowledge': with_('ackCommands', { ids: [execution_id] }, unknown),
      'to add output by name': with_('pushLogs', ids, unknown),
      'to add output by attempt': with_('pushLogs', { command_id, execution_id: undefined }, unknown),
      'to report': with_('pushStatus', { reports: undefined, ...ids, state: 'running' }, unknown),
      'to put output': {
        asked: requestOf(on.staged, named('putOutput'), { params: { id: execution_id, stream: 'stdout' } }),
        expected: unknown,
      },
    });
  });
  test('output', () =>
    on.expectTable({
      'ahead of what is stored': with_('pushLogs', { chunks: [{ stream: 'stdout', offset: 999, data: 'x' }] }, [
        409,
        'commands.offset_ahead',
      ]),
      'beyond 2^53': with_(
        'pushLogs',
        {
          chunks: [{ stream: 'stdout', offset: 9, gap: Number.MAX_SAFE_INTEGER, reason: 'x' }],
        },
        [400, 'http.malformed'],
      ),
      'no base64': with_('pushLogs', { chunks: [{ stream: 'stdout', offset: 0, data: '***', encoding: 'base64' }] }, [
        400,
        'http.malformed',
      ]),
      'half a character': with_('pushLogs', { chunks: [{ stream: 'stdout', offset: 0, data: '\ud800' }] }, [
        400,
        'http.malformed',
      ]),
      'as JSON where bytes are wanted': {
        asked: changed(requestOf(on.staged, named('putOutput')), { 'content-type': 'application/json' }),
        expected: TYPE,
      },
      'too many bytes': {
        asked: changed(requestOf(on.staged, named('putOutput')), {}, ' ', 8 * MIB + 1),
        expected: TOO_LARGE,
      },
    }));
});
