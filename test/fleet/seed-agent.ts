import { execFile } from 'node:child_process';
import { createReadStream, existsSync, mkdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';

/** The minimal agent of seed 004, as its document describes it: a program of its own that knows nothing of Aegis but the documented calls, in
 *  their documented order. `node seed-agent.ts CONFIG.JSON`. */

const exec = promisify(execFile);
const { serverUrl, apiKey, tempDir } = JSON.parse(readFileSync(process.argv[2] ?? 'config.json', 'utf8')) as {
  serverUrl: string;
  apiKey: string;
  agentId: string;
  pollInterval: number;
  tempDir: string;
};

const call = async (method: string, path: string, body?: unknown): Promise<Answer> => {
  const answer = await fetch(`${serverUrl}${path}`, {
    method,
    headers: { 'X-Agent-API-Key': apiKey, ...(body === undefined ? {} : { 'Content-Type': 'application/json' }) },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  const json = (await answer.json()) as Answer;
  if (!json.success) throw new Error(`${method} ${path}: ${answer.status} ${json.error?.message}`);
  return json;
};
interface Answer {
  success: boolean;
  error?: { message: string };
  configs?: Config[];
  logId?: string;
  uploadUrl?: string;
  s3Config?: {
    accessKeyId: string;
    secretAccessKey: string;
    sessionToken?: string;
    region: string;
    endpoint?: string;
    bucket: string;
    key: string;
    forcePathStyle: boolean;
  };
}
interface Config {
  id: string;
  name: string;
  sources: { path: string }[];
  destination: { bucket: string; region: string; prefix: string };
  options: { type: string; compression: boolean; encryption: boolean; retentionDays?: number };
}

const log = (level: string, message: string, metadata: Record<string, unknown> = {}) =>
  call('POST', '/api/agent/log', { level, message, metadata });

const upload = async ({ s3Config, uploadUrl }: Answer, archive: string): Promise<void> => {
  const length = statSync(archive).size;
  if (uploadUrl !== undefined) {
    const answer = await fetch(uploadUrl, { method: 'PUT', body: readFileSync(archive) });
    if (!answer.ok) throw new Error(`the upload was answered ${answer.status}: ${await answer.text()}`);
    return;
  }
  if (!s3Config) throw new Error('the server gave no way to S3');
  const { PutObjectCommand, S3Client } = await import('@aws-sdk/client-s3');
  const { accessKeyId, secretAccessKey, sessionToken, region, endpoint, bucket, key, forcePathStyle } = s3Config;
  const s3 = new S3Client({
    region,
    ...(endpoint === undefined ? {} : { endpoint }),
    forcePathStyle,
    credentials: { accessKeyId, secretAccessKey, ...(sessionToken === undefined ? {} : { sessionToken }) },
    requestChecksumCalculation: 'WHEN_REQUIRED',
  });
  await s3.send(
    new PutObjectCommand({ Bucket: bucket, Key: key, Body: createReadStream(archive), ContentLength: length }),
  );
  s3.destroy();
};

const backUp = async (config: Config): Promise<void> => {
  const began = Date.now();
  const missing = config.sources.filter(({ path }) => !existsSync(path));
  const started = await call('POST', '/api/agent/backup/start', { configId: config.id });
  const { logId } = started;
  try {
    if (missing[0]) throw new Error(`Source path does not exist: ${missing[0].path}`);
    const paths = config.sources.map(({ path }) => path.slice(1));
    await log('info', `Scanning directory ${config.sources[0]?.path}`);
    const { stdout } = await exec('find', [...config.sources.map(({ path }) => path), '-type', 'f', '-printf', '%s\n']);
    const sizes = stdout.split('\n').filter(Boolean).map(Number);
    const archive = join(tempDir, `${logId}.tar.gz`);
    await exec('tar', ['-czf', archive, '-C', '/', ...paths]);
    await upload(started, archive);
    await call('POST', '/api/agent/backup/complete', {
      logId,
      status: 'completed',
      filesProcessed: sizes.length,
      bytesTransferred: sizes.reduce((a, b) => a + b, 0),
      duration: Date.now() - began,
      errors: [],
    });
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    await log('error', `Backup failed: ${message}`, { configId: config.id });
    await call('POST', '/api/agent/backup/complete', {
      logId,
      status: 'failed',
      filesProcessed: 0,
      bytesTransferred: 0,
      duration: Date.now() - began,
      errors: [message],
    });
  }
};

mkdirSync(tempDir, { recursive: true });
const facts = { version: '0.1.0', platform: process.platform };
await call('POST', '/api/agent/heartbeat', facts);
const { configs = [] } = await call('GET', '/api/agent/configs');
for (const config of configs) {
  try {
    await backUp(config);
  } catch (error) {
    await log('error', error instanceof Error ? error.message : String(error)); // and on with the next configuration
  }
}
await call('POST', '/api/agent/heartbeat', facts);
rmSync(tempDir, { recursive: true, force: true });
