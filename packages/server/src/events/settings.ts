import type { ServerConfig } from '../config.ts';

export const eventSettings = (events: ServerConfig['events']) => ({
  limits: {
    most: events.max_streams,
    mostEach: events.max_streams_each,
    stallMs: events.stall_sec * 1000,
    heartbeatMs: events.heartbeat_sec * 1000,
  },
  keep: { most: events.max_events, maxAgeMs: events.max_age_sec * 1000 },
});
