import { AegisError, plainExitCodeOf } from '@aegis/protocol/errors';
import { type StartOrder, takeStartOrder } from './start-bundle.ts';

type Run = (order: StartOrder & { env: NodeJS.ProcessEnv }) => Promise<number>;

/** The process of dist/server.cjs and dist/daemon.cjs. */
export const runBundle = async (run: Run): Promise<void> => {
  const order = takeStartOrder(process.env);
  try {
    process.exit(await run({ ...order, env: process.env }));
  } catch (error) {
    const known = error instanceof AegisError ? error : null;
    const { code, message, details } = known ?? { code: 'http.internal', message: String(error), details: {} };
    process.stderr.write(
      order.json ? `${JSON.stringify({ error: { code, message, details } })}\n` : `aegis: ${message}\n`,
    );
    process.exit(known ? plainExitCodeOf(known.code) : 1);
  }
};
