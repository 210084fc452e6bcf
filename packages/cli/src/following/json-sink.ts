import { isUtf8 } from 'node:buffer';
import type { Output } from '../ui/output.ts';
import type { Sink } from './sink.ts';

/** One JSON object a line: chunks, gaps and states as they come, the result last (docs/cli-json.md). */
export const jsonSink = (output: Output): Sink => {
  const line = (value: unknown) => output.out(`${JSON.stringify(value)}\n`);
  return {
    chunk: async ({ bytes, ...chunk }) => {
      const encoding = isUtf8(bytes) ? 'utf8' : 'base64';
      await line({ ...chunk, data: bytes.toString(encoding), encoding });
    },
    gap: line,
    state: (execution) => line({ type: 'state', execution }),
    end: ({ command, executions }) =>
      line({
        type: 'result',
        command_id: command.command_id,
        state: command.state,
        executions: executions.map((execution) => {
          const { node, state, exit_code, signal, started_at, finished_at, attempt, execution_id, error, output } =
            execution;
          const stdout_bytes = output.stdout.bytes ?? output.stdout.next;
          const stderr_bytes = output.stderr.bytes ?? output.stderr.next;
          const bytes = stdout_bytes + stderr_bytes;
          return {
            node,
            state,
            exit_code,
            signal,
            bytes,
            started_at,
            finished_at,
            stdout_bytes,
            stderr_bytes,
            attempt,
            execution_id,
            error,
          };
        }),
      }),
    close: async () => undefined,
  };
};
