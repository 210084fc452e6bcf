import { type Fleet, startFleet } from '../../../test/fleet/fleet.ts';
import { type Herd, startHerd } from './herd-process.ts';
import { enrolHerd, serverDataOf } from './identity.ts';

/** A server and the herd beside it. */
export interface HerdStage extends AsyncDisposable {
  fleet: Fleet;
  herd: Herd;
  /** Others of the same nodes, in a process of their own. */
  another(): Herd;
}

export const startHerdStage = async (
  nodes: number,
  options: { tls?: boolean; processes?: number; serverFlags?: readonly string[]; env?: Record<string, string> } = {},
): Promise<HerdStage> => {
  const { tls = false, processes = 1, serverFlags = [], env = {} } = options;
  const fleet = await startFleet({ startDaemons: false, serverFlags, env });
  try {
    const identity = await enrolHerd(serverDataOf(fleet.folder), nodes);
    const { hostname: host, port } = new URL(fleet.url);
    const server = { host, port: Number(port), tls, ...identity };
    const herd = startHerd(server, processes);
    return {
      fleet,
      herd,
      another: () => startHerd(server),
      [Symbol.asyncDispose]: async () => {
        await herd[Symbol.asyncDispose]();
        await fleet[Symbol.asyncDispose]();
      },
    };
  } catch (error) {
    await fleet[Symbol.asyncDispose]();
    throw error;
  }
};
