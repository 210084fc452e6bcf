import {
  decidedByServer,
  type ExecutionState,
  FINAL_STATES,
  isFinal,
  reportedByNode,
  type Standing,
} from '@aegis/protocol/commands/state';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import {
  commandOf,
  EMPTY,
  onlyExecution,
  poll,
  queueDrift,
  STORAGES,
  sha256,
  signed,
  submitTo,
} from './commands-support.ts';
import { type EnrolledNode, type HandClock, handClock, startTestServer, type TestServer } from './start-test-server.ts';

/** Whatever arrives in whatever order, dropped or repeated: the server's execution goes where the model (the pure rules of
 *  protocol/commands/state.ts) goes, a final state that the node reported never changes, and the bytes stay the source's. */

const SOURCE = Buffer.from(Array.from({ length: 64 }, (_, at) => at * 3));
const TTL_SEC = 60;

const chunk = fc.record({ at: fc.nat(63), length: fc.integer({ min: 1, max: 40 }) });
const step = fc.oneof(
  { weight: 2, arbitrary: fc.constant({ do: 'poll' as const }) },
  { weight: 2, arbitrary: fc.constant({ do: 'ack' as const }) },
  { weight: 1, arbitrary: fc.constant({ do: 'cancel' as const }) },
  { weight: 1, arbitrary: fc.constant({ do: 'expire' as const }) },
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constant('report' as const),
      state: fc.constantFrom('delivered' as const, 'running' as const, ...FINAL_STATES),
      twice: fc.boolean(),
    }),
  },
  { weight: 3, arbitrary: fc.record({ do: fc.constant('output' as const), chunk }) },
);
type Step = typeof step extends fc.Arbitrary<infer S> ? S : never;

interface Model {
  standing: Standing;
  offered: boolean;
  delivered: boolean;
  /** A cancel that the node has neither acknowledged nor overtaken by a final report. */
  cancelling: boolean;
  stored: number;
  /** Known once a final report was taken. */
  total: number | null;
}

const RANK: Record<string, number> = { queued: 0, delivered: 1, running: 2 };
const rank = (state: ExecutionState): number => RANK[state] ?? 3;

describe.each(STORAGES)('%s', (storage) => {
  let server: TestServer;
  let node: EnrolledNode;
  let clock: HandClock;
  beforeAll(async () => {
    clock = handClock();
    server = await startTestServer({ storage, clock, config: { 'nodes.token_ttl_sec': 30 * 86_400 } });
    node = await server.enrol('n');
  });
  afterAll(() => server.close());

  test('executions go where the model goes', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 14 }), async (steps) => {
        const ids = await submitTo(server, 'n', { ttl_sec: TTL_SEC });
        const model: Model = {
          standing: { state: 'queued', presumed: false },
          offered: false,
          delivered: false,
          cancelling: false,
          stored: 0,
          total: null,
        };
        let settled: ExecutionState | null = null;
        for (const one of steps) {
          const before = model.standing;
          await apply(one, ids, model);
          const now = await onlyExecution(server, ids.commandId);
          expect({ state: now.state, presumed: now.presumed }).toEqual(model.standing);
          expect(now.output.stdout.next).toBe(model.stored);
          if (!before.presumed) expect(rank(now.state)).toBeGreaterThanOrEqual(rank(before.state));
          if (settled) expect(now.state).toBe(settled);
          if (isFinal(now.state) && !now.presumed) settled = now.state;
          expect((await commandOf(server, ids.commandId)).result).toEqual({ [now.state]: 1 });
        }
        expect(await storedBytes(ids.executionId)).toEqual(SOURCE.subarray(0, model.stored));
        expect(await queueDrift(server)).toEqual([]);
        await endOf(ids, model);
      }),
      { numRuns: process.env.AEGIS_LONG ? 500 : 40 },
    );
  });

  const storedBytes = async (executionId: string): Promise<Buffer> => {
    const rows = await server.running.storage.read
      .selectFrom('commands_output')
      .selectAll()
      .where('execution_id', '=', executionId)
      .orderBy('start')
      .execute();
    return Buffer.concat(rows.map((row) => row.bytes ?? Buffer.alloc(0)));
  };

  /** Nothing of it may stay in the queue of the next run. */
  const endOf = async (ids: { commandId: string; executionId: string }, model: Model): Promise<void> => {
    await apply({ do: 'report', state: 'lost', twice: false }, ids, model);
  };

  const apply = async (one: Step, ids: { commandId: string; executionId: string }, model: Model): Promise<void> => {
    switch (one.do) {
      case 'poll': {
        const { commands } = await poll(node, { resume: 'true' });
        const kinds = commands.filter(({ execution_id }) => execution_id === ids.executionId).map(({ kind }) => kind);
        const open = !isFinal(model.standing.state);
        expect(kinds).toEqual([...(model.cancelling ? ['command.cancel'] : []), ...(open ? ['command.run'] : [])]);
        if (kinds.includes('command.run')) model.offered = true;
        return;
      }
      case 'ack': {
        await node.raw('POST', '/v1/commands/ack', {
          headers: { 'content-type': 'application/json' },
          body: JSON.stringify({ ids: [ids.executionId] }),
        });
        const moved = model.cancelling ? null : reportedByNode(model.standing, 'delivered');
        if (moved) model.standing = moved;
        if (moved || model.cancelling) model.delivered = true;
        return;
      }
      case 'cancel': {
        const offered = model.offered || model.delivered;
        const moved = decidedByServer(model.standing, 'cancelled', offered);
        const answer = await server.as('operator').raw('POST', `/api/v1/commands/${ids.commandId}/cancel`, {
          headers: { 'content-type': 'application/json' },
          body: '{}',
        });
        expect(answer.status).toBe(moved ? 200 : 409);
        if (!moved) return;
        model.standing = moved;
        model.cancelling ||= offered;
        return;
      }
      case 'expire': {
        clock.advance(TTL_SEC * 1000);
        await server.running.commands.expiry.tick();
        const moved = decidedByServer(model.standing, 'expired', model.offered || model.delivered);
        if (moved) model.standing = moved;
        return;
      }
      case 'report': {
        const total = model.total ?? model.stored;
        const source = SOURCE.subarray(0, total);
        const body = signed(node, {
          command_id: ids.commandId,
          execution_id: ids.executionId,
          state: one.state,
          output: { stdout: { bytes: total, sha256: sha256(source) }, stderr: EMPTY },
        });
        for (let times = one.twice ? 2 : 1; times > 0; times--) {
          const answer = await node.raw('POST', '/v1/commands/status', {
            headers: { 'content-type': 'application/json' },
            body: JSON.stringify(body),
          });
          expect(answer.status, answer.text).toBe(200);
        }
        const moved = reportedByNode(model.standing, one.state);
        if (!moved) return;
        model.standing = moved;
        if (one.state !== 'expired' && one.state !== 'refused') model.delivered = true;
        if (isFinal(one.state)) {
          model.total = total;
          model.cancelling = false;
          expect((await onlyExecution(server, ids.commandId)).output_verified).toBe(true);
        }
        return;
      }
      case 'output': {
        const { at } = one.chunk;
        const bytes = SOURCE.subarray(at, at + one.chunk.length);
        const end = at + bytes.length;
        const answer = await node.raw('PUT', `/v1/executions/${ids.executionId}/output/stdout?offset=${at}`, {
          headers: { 'content-type': 'application/octet-stream' },
          body: new Uint8Array(bytes),
        });
        if (at > model.stored) expect(answer.status).toBe(409);
        else if (model.total !== null && end > model.total) expect(answer.status).toBe(422);
        else {
          expect(answer.status, answer.text).toBe(200);
          model.stored = Math.max(model.stored, end);
        }
      }
    }
  };
});
