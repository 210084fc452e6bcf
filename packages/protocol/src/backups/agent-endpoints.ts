import * as z from 'zod/mini';
import { endpoint } from '../endpoint.ts';

/** Seed 004's API, for its own minimal agent: camelCase, an `X-Agent-API-Key` header, `success` beside every answer, errors too. Unknown
 *  fields are ignored, as on every seed's door. */

const tag = 'backups';
const Success = { success: z.literal(true) };
const Id = z.string().check(z.minLength(1), z.maxLength(128));

export const RegisterAgent = z.object({
  name: z.string().check(z.minLength(1), z.maxLength(128)),
  platform: z.optional(z.string().check(z.maxLength(64))),
});
export const registerAgent = endpoint({
  id: 'registerBackupAgent',
  door: 'backup',
  method: 'POST',
  path: '/api/agent/register',
  caller: 'operator',
  scope: 'fleet',
  tag,
  summary: 'Register an agent; its API key is shown this once',
  body: RegisterAgent,
  response: z.object({
    ...Success,
    agent: z.object({
      id: z.uuid(),
      name: z.string(),
      apiKey: z.string(),
      status: z.string(),
      /** Its name as a node, by which configurations are assigned to it. */
      node: z.string(),
    }),
  }),
});
export const agentHeartbeat = endpoint({
  id: 'backupAgentHeartbeat',
  door: 'backup',
  method: 'POST',
  path: '/api/agent/heartbeat',
  caller: 'node',
  agentKey: true,
  tag,
  summary: 'An agent is alive',
  body: z.object({
    version: z.optional(z.string().check(z.maxLength(64))),
    platform: z.optional(z.string().check(z.maxLength(64))),
    status: z.optional(z.enum(['online', 'offline', 'error'])),
  }),
  response: z.object({ ...Success, status: z.string() }),
});
export const AgentConfig = z.object({
  id: z.uuid(),
  name: z.string(),
  sources: z.array(z.object({ path: z.string() })),
  destination: z.object({
    bucket: z.string(),
    region: z.string(),
    prefix: z.string(),
    endpoint: z.optional(z.string()),
    forcePathStyle: z.boolean(),
  }),
  options: z.object({
    type: z.string(),
    compression: z.boolean(),
    encryption: z.boolean(),
    retentionDays: z.optional(z.int()),
  }),
});
export const agentConfigs = endpoint({
  id: 'backupAgentConfigs',
  door: 'backup',
  method: 'GET',
  path: '/api/agent/configs',
  caller: 'node',
  agentKey: true,
  tag,
  summary: 'The configurations assigned to an agent',
  response: z.object({ ...Success, configs: z.array(AgentConfig) }),
});
export const agentStart = endpoint({
  id: 'backupAgentStart',
  door: 'backup',
  method: 'POST',
  path: '/api/agent/backup/start',
  caller: 'node',
  agentKey: true,
  tag,
  summary: 'A backup begins; `s3Config` in the static and STS ways, `uploadUrl` in the presigned one',
  body: z.object({ configId: Id }),
  response: z.object({
    ...Success,
    logId: z.uuid(),
    s3Config: z.optional(
      z.object({
        accessKeyId: z.string(),
        secretAccessKey: z.string(),
        sessionToken: z.optional(z.string()),
        region: z.string(),
        endpoint: z.optional(z.string()),
        bucket: z.string(),
        forcePathStyle: z.boolean(),
        /** The object is to be written here. */
        key: z.string(),
      }),
    ),
    uploadUrl: z.optional(z.string()),
  }),
});
export const agentComplete = endpoint({
  id: 'backupAgentComplete',
  door: 'backup',
  method: 'POST',
  path: '/api/agent/backup/complete',
  caller: 'node',
  agentKey: true,
  tag,
  summary: 'A backup ended',
  body: z.object({
    logId: Id,
    status: z.enum(['completed', 'failed']),
    filesProcessed: z.optional(z.int().check(z.minimum(0))),
    bytesTransferred: z.optional(z.int().check(z.minimum(0))),
    /** Milliseconds. */
    duration: z.optional(z.number().check(z.minimum(0))),
    errors: z.optional(z.array(z.unknown()).check(z.maxLength(1000))),
  }),
  response: z.object(Success),
});
export const agentLog = endpoint({
  id: 'backupAgentLog',
  door: 'backup',
  method: 'POST',
  path: '/api/agent/log',
  caller: 'node',
  agentKey: true,
  tag,
  summary: 'A line for the log of an agent',
  body: z.object({
    level: z.enum(['info', 'warning', 'error']),
    message: z.string().check(z.maxLength(4096)),
    metadata: z.optional(z.record(z.string(), z.unknown())),
  }),
  response: z.object(Success),
});
