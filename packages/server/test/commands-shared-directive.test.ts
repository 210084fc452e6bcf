import type { OfferedCommand } from '@aegis/protocol/commands/carrier';
import { pollCommands } from '@aegis/protocol/commands/endpoints';
import { describe, expect, test } from 'vitest';
import { poll, STORAGES, submit } from './commands-support.ts';
import { handClock, startTestServer } from './start-test-server.ts';

const targetsOf = (offer: OfferedCommand | undefined): unknown =>
  (JSON.parse(Buffer.from(offer?.directive.payload ?? '', 'base64').toString()) as { targets: unknown }).targets;

describe.each(STORAGES)('%s', (storage) => {
  test('one directive names all nodes of a command, keyless ones apart, and is the same bytes after a restart', async () => {
    const clock = handClock();
    await using server = await startTestServer({ storage, clock });
    const nodes = [await server.enrol('n1'), await server.enrol('n2'), await server.enrol('n3')];
    const keyless = await server.keyless('n4');
    await submit(server, { command_type: 'exec', targets: ['n3', 'n1', 'n4'], payload: { argv: ['true'] } });
    const [first, second, third] = nodes;
    if (!first || !second || !third) throw new Error('three nodes were enrolled');
    const [toFirst] = (await poll(first)).commands;
    const [toThird] = (await poll(third)).commands;
    const [toKeyless] = (await keyless.call(pollCommands, {})).commands;
    expect((await poll(second)).commands).toEqual([]);
    expect(targetsOf(toFirst)).toEqual({ node_keys: [first.keys.keyId, third.keys.keyId].sort() });
    expect(targetsOf(toKeyless)).toEqual({ selector: 'name=n4' });
    expect(toThird?.directive).toEqual(toFirst?.directive);
    expect(toThird?.execution_id).not.toBe(toFirst?.execution_id);
    await server.restart();
    clock.advance(5000);
    expect((await poll(first)).commands).toEqual([toFirst]);
  });
});
