import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { showTrust } from '@aegis/protocol/access/endpoints';
import { parseJoinToken } from '@aegis/protocol/access/join-token';
import { generateKeyPair, type KeyPair, rawPrivateKey } from '@aegis/protocol/access/keys';
import { enrolThrough } from '../../packages/server/test/start-test-server.ts';
import { testClient } from '../../packages/server/test/test-client.ts';
import { cleanEnv, type Fleet, root } from '../fleet/fleet.ts';

/** A node whose end of the channel is channel_client.py: enrolled here over HTTP, everything after that is Python's. */
export interface InteropNode extends AsyncDisposable {
  readonly uid: string;
  readonly keys: KeyPair;
  /** What every `connect` needs. */
  readonly identity: Readonly<Record<string, unknown>>;
  /** A line to the client; its answer, whole but for the id. */
  tell(what: string, more?: Readonly<Record<string, unknown>>): Promise<Record<string, unknown>>;
  /** A call of section 5. */
  call(channel: string, call: string, more?: Readonly<Record<string, unknown>>): Promise<Record<string, unknown>>;
}

/** Debian's own: another python3 may stand before it in PATH, without Debian's modules. */
const PYTHON = '/usr/bin/python3';

export const startInteropNode = async (fleet: Fleet, name: string): Promise<InteropNode> => {
  const made = await fleet.api.call('POST', '/api/v1/join-tokens', { uses: 1 });
  const joinToken = parseJoinToken((made.body as { join_token: string }).join_token);
  const anyone = testClient(
    () => fleet.url,
    async () => undefined,
  );
  const { trust_bundle } = await anyone.call(showTrust);
  const content = JSON.parse(Buffer.from(trust_bundle.payload, 'base64').toString('utf8')) as { fleet: string };
  const keys = generateKeyPair();
  const { agent_uid: uid } = await enrolThrough(
    anyone,
    { host_id: name, token_id: joinToken.id },
    keys,
    joinToken.secret,
    { fleet: content.fleet, rootFingerprint: joinToken.rootFingerprint },
  );

  const child = spawn(PYTHON, [join(root, 'test/interop/channel_client.py')], {
    stdio: ['pipe', 'pipe', 'pipe'],
    env: cleanEnv(fleet.folder),
  });
  const exit = once(child, 'exit');
  let complaints = '';
  child.stderr.on('data', (bytes: Buffer) => {
    complaints += bytes.toString('utf8');
  });
  const waiting = new Map<number, PromiseWithResolvers<Record<string, unknown>>>();
  createInterface({ input: child.stdout }).on('line', (line) => {
    const { id, ...answer } = JSON.parse(line) as { id: number };
    waiting.get(id)?.resolve(answer);
    waiting.delete(id);
  });
  child.once('exit', (code) => {
    for (const answer of waiting.values()) answer.reject(new Error(`the client ended with ${code}\n${complaints}`));
  });
  let lines = 0;
  const tell: InteropNode['tell'] = (what, more = {}) => {
    lines += 1;
    const answer = Promise.withResolvers<Record<string, unknown>>();
    waiting.set(lines, answer);
    child.stdin.write(`${JSON.stringify({ ...more, id: lines, do: what })}\n`);
    return answer.promise;
  };

  return {
    uid,
    keys,
    identity: {
      url: fleet.url.replace('http:', 'ws:'),
      uid,
      key: rawPrivateKey(keys.privateKey).toString('base64'),
      trust_bundle,
      root_fingerprint: joinToken.rootFingerprint,
    },
    tell,
    call: (channel, call, more = {}) => tell('call', { channel, call, ...more }),
    [Symbol.asyncDispose]: async () => {
      child.stdin.end();
      await exit;
    },
  };
};
