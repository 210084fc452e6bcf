import * as z from 'zod/mini';
import { endpoint } from '../endpoint.ts';
import { EVENT_TYPES, EventId, isEventFilter } from './event.ts';

const MAX_TYPES = 50;
const MAX_NODES = 100;

/** What stands between the commas. */
export const listed = (text: string): string[] => text.split(',').filter((one) => one !== '');
const Types = z.string().check(
  z.maxLength(2048),
  z.refine(
    (text) => listed(text).length > 0 && listed(text).length <= MAX_TYPES && listed(text).every(isEventFilter),
    `types or groups of types, separated by commas: ${[...new Set(EVENT_TYPES.map((type) => type.split('.')[0]))].join(', ')}, or one of their types as execution.failed`,
  ),
);
const Nodes = z.string().check(
  z.maxLength(8192),
  z.refine(
    (text) => listed(text).length > 0 && listed(text).length <= MAX_NODES,
    `1 to ${MAX_NODES} names or uids, separated by commas`,
  ),
);

/** The header `Last-Event-ID` says the same as `from`, and is the stronger of the two: a browser repeats the address as it was. */
export const readEvents = endpoint({
  id: 'readEvents',
  door: 'api',
  method: 'GET',
  path: '/api/v1/events',
  caller: 'viewer',
  scope: 'nodes',
  tag: 'events',
  summary: 'What happens in the fleet, as it happens and from any point that is kept on: events or NDJSON',
  query: z.object({
    /** Only these. */
    type: z.optional(Types),
    node: z.optional(Nodes),
    /** After this id; 0 is the oldest that is kept. Absent: from now on, or with follow=false from the oldest. */
    from: z.optional(EventId),
    /** Unless it is false the answer does not end. */
    follow: z.optional(z.enum(['true', 'false', '1', '0', ''])),
  }),
  produces: ['text/event-stream', 'application/x-ndjson'],
});
