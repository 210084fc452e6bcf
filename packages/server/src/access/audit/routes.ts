import { Readable } from 'node:stream';
import { listAudit, listAuditHeads } from '@aegis/protocol/access/audit-endpoints';
import { AegisError } from '@aegis/protocol/errors';
import { type Route, route } from '../../platform/http/route.ts';
import type { AuditService } from './service.ts';

const NDJSON = 'application/x-ndjson';
const FILTERS = ['actor', 'action', 'outcome', 'target', 'address', 'request_id', 'since', 'until', 'cursor'] as const;

/** access/audit/routes: reading the chain. @param trust what an export repeats for whoever verifies its signatures */
export const auditRoutes = (audit: AuditService, trust: () => Readonly<Record<string, unknown>>): Route[] => [
  route(listAudit, async ({ query, headers, reply }) => {
    const { limit, cursor, since, until, ...filter } = query;
    if (!wantsLines(headers.accept)) {
      const time = { since: msOf(since), until: msOf(until) };
      return await audit.list({ limit, cursor }, { ...filter, ...time });
    }
    const given = FILTERS.find((name) => query[name] !== undefined);
    if (given)
      throw new AegisError(
        'http.malformed',
        `An export is the whole chain, or it could not be verified: leave '${given}' out, or ask for application/json.`,
      );
    reply.header('content-type', `${NDJSON}; charset=utf-8`).header('x-accel-buffering', 'no');
    return reply.send(Readable.from(linesOf(audit.export(trust())), { objectMode: false }));
  }),
  route(listAuditHeads, ({ query }) => audit.heads(query)),
];

const wantsLines = (accept: string | undefined): boolean =>
  (accept ?? '').split(',').some((one) => one.split(';')[0]?.trim().toLowerCase() === NDJSON);
const msOf = (time: string | undefined): number | undefined => (time === undefined ? undefined : Date.parse(time));

async function* linesOf(lines: AsyncGenerator<object>): AsyncGenerator<string> {
  for await (const line of lines) yield `${JSON.stringify(line)}\n`;
}
