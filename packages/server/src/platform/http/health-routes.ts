import type { statistics } from '@aegis/protocol/commands/endpoints';
import { statistics as statisticsEndpoint } from '@aegis/protocol/commands/endpoints';
import type { ResponseOf } from '@aegis/protocol/endpoint';
import { healthLong, healthz } from '@aegis/protocol/nodes/endpoints';
import { VERSION } from '@aegis/protocol/version';
import type { Clock } from '../clock.ts';
import { isoTime } from '../clock.ts';
import { type Route, type RouteContext, route } from './route.ts';

/** Health asks the storage for a real answer, though at most once a second however often it is asked itself. */

const KEEP_MS = 1000;
const PATIENCE_MS = 3000;

export const healthRoutes = (parts: {
  clock: Clock;
  ping: () => Promise<void>;
  statistics: () => Promise<ResponseOf<typeof statistics>>;
}): Route[] => {
  let latest: { at: number; failing: Promise<string[]> } | undefined;
  const failing = (): Promise<string[]> => {
    const now = parts.clock.now();
    if (!latest || Math.abs(now - latest.at) >= KEEP_MS)
      latest = {
        at: now,
        failing: withinPatience(parts.ping()).then(
          () => [],
          () => ['storage'],
        ),
      };
    return latest.failing;
  };
  const answer = async ({ reply }: RouteContext<typeof healthz>) => {
    const parts_ = await failing();
    const healthy = parts_.length === 0;
    if (!healthy) reply.code(503).header('retry-after', '2');
    return {
      status: healthy ? ('healthy' as const) : ('unhealthy' as const),
      timestamp: isoTime(parts.clock.now()),
      version: VERSION,
      ...(healthy ? {} : { failing: parts_ }),
    };
  };
  return [route(healthz, answer), route(healthLong, answer), route(statisticsEndpoint, () => parts.statistics())];
};

const withinPatience = async (ping: Promise<void>): Promise<void> => {
  let timer: NodeJS.Timeout | undefined;
  const patience = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error('the storage does not answer')), PATIENCE_MS);
  });
  try {
    await Promise.race([ping, patience]);
  } finally {
    clearTimeout(timer);
  }
};
