import { statistics } from '@aegis/protocol/commands/endpoints';
import type { ResponseOf } from '@aegis/protocol/endpoint';
import { healthLong, healthz } from '@aegis/protocol/nodes/endpoints';
import { VERSION } from '@aegis/protocol/version';
import { type Clock, isoTime } from '../clock.ts';
import { type Route, type RouteContext, route } from './route.ts';

/** Health asks the storage for a real answer, though at most once a second however often it is asked itself. */

const KEEP_MS = 1000;
const PATIENCE_MS = 3000;

/** Parts that do not work; parts that work and have more to do than they can: some requests get 503, a restart would not help. */
interface Found {
  failing: string[];
  overloaded: string[];
}

type Statistics = ResponseOf<typeof statistics>;

export const healthRoutes = (parts: {
  clock: Clock;
  storage: { kind: string; ping(): Promise<{ overloaded: boolean }> };
  /** What people have to see to in time. */
  warnings: () => string[];
  nodes: () => Promise<Statistics['nodes']>;
  commands: () => Promise<Pick<Statistics, 'commands' | 'executions'> & { outputBytes: number }>;
}): Route[] => {
  const startedAt = parts.clock.now();
  let latest: { at: number; found: Promise<Found> } | undefined;
  const look = (): Promise<Found> => {
    const now = parts.clock.now();
    if (!latest || Math.abs(now - latest.at) >= KEEP_MS)
      latest = {
        at: now,
        found: withinPatience(parts.storage.ping()).then(
          ({ overloaded }) => ({ failing: [], overloaded: overloaded ? ['storage'] : [] }),
          () => ({ failing: ['storage'], overloaded: [] }),
        ),
      };
    return latest.found;
  };
  const health = async ({ reply }: RouteContext<typeof healthz>) => {
    const { failing, overloaded } = await look();
    const healthy = failing.length === 0;
    const warnings = parts.warnings();
    if (!healthy) reply.code(503).header('retry-after', '2');
    return {
      status: healthy ? ('healthy' as const) : ('unhealthy' as const),
      timestamp: isoTime(parts.clock.now()),
      version: VERSION,
      ...(healthy ? {} : { failing }),
      ...(overloaded.length > 0 ? { overloaded } : {}),
      ...(warnings.length > 0 ? { warnings } : {}),
    };
  };
  const figures = async (): Promise<Statistics> => {
    const { commands, executions, outputBytes } = await parts.commands();
    return {
      nodes: await parts.nodes(),
      commands,
      executions,
      storage: { kind: parts.storage.kind, output_bytes: outputBytes },
      uptime_sec: Math.max(0, parts.clock.now() - startedAt) / 1000,
    };
  };
  return [route(healthz, health), route(healthLong, health), route(statistics, figures)];
};

const withinPatience = async <T>(ping: Promise<T>): Promise<T> => {
  let timer: NodeJS.Timeout | undefined;
  const patience = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error('the storage does not answer')), PATIENCE_MS);
  });
  try {
    return await Promise.race([ping, patience]);
  } finally {
    clearTimeout(timer);
  }
};
