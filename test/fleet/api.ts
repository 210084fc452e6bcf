import { createHash } from 'node:crypto';
import type { Command, Execution } from '@aegis/protocol/commands/submission';
import { waitFor } from '../faults/wait.ts';

/** The operator's side for tests: plain fetch against the contract, so that a test never leans on the CLI's own code. */
export interface Api {
  call(method: string, path: string, body?: unknown): Promise<{ status: number; body: unknown }>;
  submit(submission: Readonly<Record<string, unknown>>): Promise<Run>;
}

export interface Run {
  readonly id: string;
  executions(): Promise<Execution[]>;
  command(): Promise<Command>;
  /** Waits until the command is final; its executions, by node name and attempt. */
  finished(deadlineMs?: number): Promise<Execution[]>;
  /** Waits until the server holds at least this many bytes of a stream of the first execution. */
  holds(stream: 'stdout' | 'stderr', bytes: number, deadlineMs?: number): Promise<void>;
  /** The server's bytes of one stream of one node's last attempt, as count and SHA-256. */
  stored(stream: 'stdout' | 'stderr', node?: string): Promise<{ bytes: number; sha256: string }>;
  text(stream: 'stdout' | 'stderr', node?: string): Promise<string>;
}

export const apiOf = (url: string | (() => string), token: () => string | null): Api => {
  const fetchApi = (path: string, init: RequestInit = {}) =>
    fetch(`${typeof url === 'string' ? url : url()}${path}`, {
      ...init,
      headers: { ...(token() === null ? {} : { authorization: `Bearer ${token()}` }), ...init.headers },
    });

  const call: Api['call'] = async (method, path, body) => {
    const answer = await fetchApi(path, {
      method,
      ...(body === undefined ? {} : { body: JSON.stringify(body), headers: { 'content-type': 'application/json' } }),
    });
    const text = await answer.text();
    return { status: answer.status, body: text === '' ? null : JSON.parse(text) };
  };
  const must = async <T>(method: string, path: string, body?: unknown): Promise<T> => {
    const answer = await call(method, path, body);
    if (answer.status >= 300) throw new Error(`${method} ${path}: ${answer.status} ${JSON.stringify(answer.body)}`);
    return answer.body as T;
  };

  const runOf = (id: string): Run => {
    const path = `/api/v1/commands/${id}`;
    const executions = async () => (await must<{ items: Execution[] }>('GET', `${path}/executions?limit=1000`)).items;
    const command = () => must<Command>('GET', path);
    const bytesOf = async (stream: string, node?: string) => {
      const name = node ?? (await executions())[0]?.node ?? '';
      const answer = await fetchApi(`${path}/logs?node=${encodeURIComponent(name)}&stream=${stream}`, {
        headers: { accept: 'application/octet-stream' },
      });
      if (!answer.ok || !answer.body) throw new Error(`logs of ${name}: ${answer.status} ${await answer.text()}`);
      return answer.body;
    };
    // A server under test may be down at any moment: that is not an answer yet.
    const quietly = async <T>(ask: () => Promise<T>): Promise<T | null> => ask().catch(() => null);
    return {
      id,
      executions,
      command,
      finished: async (deadlineMs = 60_000) => {
        let last: Command | null = null;
        await waitFor(
          `command ${id} to end`,
          async () => {
            last = (await quietly(command)) ?? last;
            return last !== null && last.state !== 'pending' && last.state !== 'running';
          },
          deadlineMs,
          () => JSON.stringify(last),
        );
        return (await executions()).sort((a, b) => a.node.localeCompare(b.node) || a.attempt - b.attempt);
      },
      holds: (stream, bytes, deadlineMs = 60_000) =>
        waitFor(
          `${bytes} bytes of ${stream} of ${id}`,
          async () => ((await quietly(executions))?.[0]?.output[stream].next ?? 0) >= bytes,
          deadlineMs,
        ),
      stored: async (stream, node) => {
        const hash = createHash('sha256');
        let bytes = 0;
        for await (const part of await bytesOf(stream, node)) {
          hash.update(part);
          bytes += part.length;
        }
        return { bytes, sha256: hash.digest('hex') };
      },
      text: async (stream, node) => new Response(await bytesOf(stream, node)).text(),
    };
  };

  return {
    call,
    submit: async (submission) => {
      const { command_id } = await must<{ command_id: string }>('POST', '/api/v1/commands', submission);
      return runOf(command_id);
    },
  };
};
