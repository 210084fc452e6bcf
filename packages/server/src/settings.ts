import type { ServerConfig } from './config.ts';
import type { Clock } from './platform/clock.ts';
import { rateLimiter } from './platform/http/rate-limit.ts';

/** What each domain is told of the configuration, in its own words: milliseconds for seconds, limits by what they limit. */

export const backupSettings = (config: ServerConfig) => ({
  s3: {
    bounds: {
      callTimeoutMs: config.backups.s3_timeout_sec * 1000,
      idleTimeoutMs: config.backups.s3_timeout_sec * 500,
      connectTimeoutMs: Math.min(10_000, config.backups.s3_timeout_sec * 500),
      attempts: config.backups.s3_attempts,
    },
    sweepOlderThanMs: config.backups.sweep_uploads_after_sec * 1000,
  },
  alerts: {
    webhooks: config.backups.alert_webhooks,
    webhookSecret: config.backups.alert_webhook_secret,
    command: config.backups.alert_command,
    timeoutMs: config.backups.alert_timeout_sec * 1000,
    giveUpAfterMs: config.backups.alert_give_up_after_sec * 1000,
    maxWaiting: config.backups.max_alerts,
  },
  ownFiles: { sources: config.backups.server_sources, destinations: config.backups.server_destinations },
  limits: {
    maxConfigs: config.backups.max_configs,
    maxConfigsPerNode: config.backups.max_configs_per_node,
    maxRunsPerNode: config.backups.max_runs_per_node,
    maxUnderWayPerNode: config.backups.max_running_per_node,
    logLinesPerRun: config.backups.log_lines_per_run,
    logLinesPerNode: config.backups.log_lines_per_node,
    logDays: config.backups.log_days,
    lostAfterMs: config.backups.lost_after_sec * 1000,
    offlineLostAfterMs: config.backups.offline_lost_after_sec * 1000,
  },
});

export const commandLimits = (config: ServerConfig) => ({
  redeliverAfterMs: config.commands.redeliver_after_ms,
  maxInFlightPerNode: config.commands.max_in_flight_per_node,
  maxQueuedPerNode: config.commands.max_queued_per_node,
  retentionDays: config.commands.retention_days,
  lostAfterSec: config.commands.lost_after_sec,
});

/** One set of buckets for all listeners of a process. */
export const callerLimits = ({ rate_limits: limits }: ServerConfig, clock: Clock) => ({
  enrolment: rateLimiter({ burst: limits.enrolment_burst, perSecond: limits.enrolment_per_sec }, clock.now),
  failedAuth: rateLimiter({ burst: limits.failed_auth_burst, perSecond: limits.failed_auth_per_sec }, clock.now),
  agent: rateLimiter({ burst: limits.agent_burst, perSecond: limits.agent_per_sec }, clock.now),
  address: rateLimiter({ burst: limits.address_burst, perSecond: limits.address_per_sec }, clock.now),
  token: rateLimiter({ burst: limits.token_burst, perSecond: limits.token_per_sec }, clock.now),
});

export const messageLimits = ({ messages }: ServerConfig) => ({
  queueSize: messages.queue_size,
  ttlMs: messages.ttl_sec * 1000,
  retries: messages.retry_attempts,
  answerMs: messages.answer_timeout_sec * 1000,
  keepMs: messages.keep_sec * 1000,
});

export const channelLimits = ({ channel }: ServerConfig) => ({
  handshakeMs: channel.handshake_sec * 1000,
  sessionMs: channel.session_sec * 1000,
  heartbeatMs: channel.heartbeat_sec * 1000,
  rotation: { messages: channel.rotation_messages, ms: channel.rotation_sec * 1000 },
  signMessages: channel.sign_messages,
  maxConnections: channel.max_connections,
  maxUnauthenticated: channel.max_unauthenticated,
  maxUnauthenticatedEach: channel.max_unauthenticated_each,
});
