import type { Run } from '@aegis/protocol/backups/run';
import type { Api } from '../api/client.ts';
import { routes } from '../api/routes.ts';
import { askOnTerminal } from '../following/ask-terminal.ts';
import { interrupts } from '../following/interrupts.ts';
import type { NodeEnd } from './node-lines.ts';
import type { Followed, Following } from './on-nodes.ts';
import { progressOf, progressView } from './progress-view.ts';

/** A backup of the control server's own files (execution_mode 'server'): begun by a request, looked at until it has ended. */

const EVERY_MS = 500;

export const runOnServer = async (api: Api, config: string): Promise<Run> =>
  await api.call(routes.runConfig, { params: { id: config } });

export const followRun = async (api: Api, begun: Run, options: Following): Promise<Followed> => {
  const { around, json } = options;
  const { output } = around;
  const params = { id: begun.run_id };
  const view = options.progress && !json ? progressView(around) : null;
  const say = async (text: string): Promise<void> => {
    await view?.clear();
    await options.say(text);
  };
  const canAsk = process.stdin.isTTY === true && output.errIsTerminal && !json;
  const stop = interrupts({
    policy: options.policy,
    ask: canAsk ? () => askOnTerminal(output, 'the server') : null,
    cancel: async () => void (await api.call(routes.cancelRun, { params })),
    say,
  });
  let run = begun;
  let told = '';
  try {
    while (run.state === 'running' && !stop.letGo.aborted) {
      if (run.progress && run.progress.at !== told) {
        told = run.progress.at;
        if (view) await view.show(run.node, progressOf(run.progress));
        else if (json && options.progress)
          await output.out(
            `${JSON.stringify({ type: 'progress', node: run.node, run_id: run.run_id, ...run.progress })}\n`,
          );
      }
      await around.pause(EVERY_MS, stop.letGo);
      if (!stop.letGo.aborted) run = await api.call(routes.showRun, { params });
    }
    return { ends: [endOf(run)], interrupted: stop.interrupted, letGo: run.state === 'running' };
  } finally {
    stop.stop();
    await view?.clear();
  }
};

const endOf = (run: Run): NodeEnd => {
  const { run_id, state, reason, totals, archive_bytes, errors, started_at, finished_at } = run;
  const duration_ms = finished_at === null ? null : Date.parse(finished_at) - Date.parse(started_at);
  const fields = { run_id, state, reason, totals, archive_bytes, duration_ms, errors };
  return { node: run.node, fields, refusal: null, why: null };
};
