import { createToken, revokeToken } from '@aegis/protocol/access/endpoints';
import { apiRetireNode } from '@aegis/protocol/nodes/endpoints';
import { expect } from 'vitest';
import { issueToken } from '../../packages/server/src/offline.ts';
import { handClock, startTestServer, type TestServer } from '../../packages/server/test/start-test-server.ts';
import { dump, faultsIn } from './database.ts';
import { type Asked, codeOf, type Exchange, exchangeWith, formFault } from './exchange.ts';
import { type Staged, stage } from './samples.ts';

/** What no endpoint may take is sent here: the right status and code, an answer of the one error form, and nothing changed. Requests are
 *  good ones but for the one thing that is wrong with them. */
export interface BadInputStage {
  server: TestServer;
  staged: Staged;
  exchange: Exchange;
  /** Bearers that are no good, and what an endpoint for operators and one for nodes say to them. */
  bearers: Readonly<Record<string, { bearer: string | null; operators: Outcome; nodes: Outcome }>>;
  /** Sends it, checks the form of the refusal; answers status and code. */
  refused(asked: Asked, what: string): Promise<[number, string | null]>;
  /** All of a table at once, the tables of the database compared around it. */
  expectTable(cases: Cases): Promise<void>;
  close(): Promise<void>;
}
type Outcome = readonly [number, string];
export type Cases = Readonly<Record<string, { asked: Asked; expected: readonly [number, string | null] }>>;

export const MALFORMED = [400, 'http.malformed'] as const;
export const TYPE = [415, 'http.unsupported_media_type'] as const;
export const TOO_LARGE = [413, 'http.too_large'] as const;

/** With these headers set or (undefined) left out, and another body. */
export const changed = (
  asked: Asked,
  headers: Record<string, string | undefined>,
  body?: Asked['body'],
  claimBytes?: number,
): Asked => ({
  ...asked,
  headers: Object.fromEntries(
    Object.entries({ ...asked.headers, ...headers }).filter(
      (entry): entry is [string, string] => entry[1] !== undefined,
    ),
  ),
  ...(body === undefined ? {} : { body }),
  ...(claimBytes === undefined ? {} : { claimBytes }),
});

const unsigned = (token: string): string =>
  `${Buffer.from('{"alg":"none","typ":"JWT"}').toString('base64url')}.${token.split('.')[1]}.`;

export const badInputStage = async (): Promise<BadInputStage> => {
  const clock = handClock();
  const server = await startTestServer({ clock });
  await using foreign = await startTestServer();
  const admin = server.as('admin');
  const make = (name: string, more: object) => admin.call(createToken, { body: { name, role: 'admin', ...more } });
  const expiring = await make('expiring', { ttl_sec: 60 });
  const revoked = await make('revoked', {});
  await admin.call(revokeToken, { params: { id: revoked.id } });
  const expired = await server.enrol('expired');
  clock.advance(86_400_000);
  const retired = await server.enrol('retired');
  await admin.call(apiRetireNode, { params: { id: 'retired' } });
  const adminToken = await issueToken({ dataDir: server.dataDir, role: 'admin', name: 'stage', clock });
  const staged = await stage(server.url, adminToken, clock.now());
  const exchange = exchangeWith(server.url);
  const foreignAdmin = await issueToken({ dataDir: foreign.dataDir, role: 'admin', name: 'x' });
  const nobody: Outcome = [401, 'access.unauthenticated'];
  const unauthenticated = (bearer: string | null) => ({ bearer, operators: nobody, nodes: nobody });
  const bearers: BadInputStage['bearers'] = {
    none: unauthenticated(null),
    garbage: unauthenticated('garbage'),
    'a JWT without signature': unauthenticated(unsigned(staged.bearers.node)),
    'an expired operator token': unauthenticated(expiring.token),
    'a revoked operator token': unauthenticated(revoked.token),
    'an expired node token': unauthenticated(expired.token),
    "another fleet's operator token": unauthenticated(foreignAdmin),
    "another fleet's node token": unauthenticated((await foreign.enrol('alien')).token),
    'a join token': unauthenticated(await server.joinToken()),
    "a retired node's token": {
      bearer: retired.token,
      operators: [403, 'nodes.retired'],
      nodes: [403, 'nodes.retired'],
    },
    'a node token': { bearer: staged.bearers.node, operators: [403, 'access.forbidden'], nodes: [200, ''] },
    'an admin token': { bearer: staged.bearers.admin, operators: [200, ''], nodes: [403, 'access.forbidden'] },
  };
  const refused = async (asked: Asked, what: string): Promise<[number, string | null]> => {
    const told = await exchange(asked);
    if (told.status >= 400) expect(formFault(told), what).toBe(null);
    return codeOf(told);
  };
  const expectTable = async (cases: Cases): Promise<void> => {
    const before = dump(server.dataDir);
    const seen: Record<string, unknown> = {};
    for (const [what, { asked }] of Object.entries(cases)) seen[what] = await refused(asked, what);
    expect(seen).toEqual(Object.fromEntries(Object.entries(cases).map(([what, { expected }]) => [what, expected])));
    expect(dump(server.dataDir)).toEqual(before);
  };

  return {
    server,
    staged,
    exchange,
    bearers,
    refused,
    expectTable,
    close: async () => {
      exchange[Symbol.dispose]();
      expect(faultsIn(server.dataDir)).toEqual([]);
      await server.close();
    },
  };
};
