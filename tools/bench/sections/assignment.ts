import { waitFor } from '../../../test/faults/wait.ts';
import { startFleet } from '../../../test/fleet/fleet.ts';
import { OPEN_RATES, operatorOf, wallClockMs } from '../bench-fleet.ts';
import { atMost, figure } from '../figure.ts';
import { cpuMs } from '../proc.ts';
import { publisher } from '../publisher.ts';
import { type Section, times } from '../section.ts';
import { startSimulators } from '../simulator-process.ts';

/** One artifact to very many nodes at once. The nodes are simulated up to the kernel's part: they wait in the long poll, fetch their
 *  desired state, verify the directive, download the bundle, check digest and signature, read it strictly, and report. */
export const assignment: Section = {
  name: 'assignment',
  what: 'one artifact assigned to a thousand nodes at once, simulated up to the kernel',
  run: async (context) => {
    const nodes = times(context, 1000, 100);
    const rounds = times(context, 3, 1);
    await using fleet = await startFleet({
      startDaemons: false,
      env: {
        ...OPEN_RATES,
        AEGIS_RATE_LIMITS_ENROLMENT_BURST: '1000000',
        AEGIS_RATE_LIMITS_ENROLMENT_PER_SEC: '1000000',
        AEGIS_RATE_LIMITS_ENROLMENT_PENDING: '10000',
      },
    });
    const operator = operatorOf(fleet.url, fleet.token);
    try {
      const { join_token } = await operator.ask<{ join_token: string }>('POST', '/api/v1/join-tokens', { uses: nodes });
      const names = Array.from({ length: nodes }, (_, index) => `sim-${index + 1}`);
      context.say(`enrolling ${nodes} nodes`);
      await using simulators = await startSimulators(fleet.url, join_token, names, 2);
      const publish = await publisher(operator, 'net_token_bucket', {
        name: 'limit',
        attach: { kind: 'tc', interface: 'default-route', direction: 'egress' },
      });
      const server = fleet.server.pid ?? 0;
      const seconds: number[] = [];
      let cores = 0;
      for (let round = 0; round <= rounds; round++) {
        const name = `everywhere-${round}`;
        const artifact = await (await publish(name)).push();
        const attached = simulators.attach(name);
        // All of them are waiting in their poll before the clock starts.
        await waitFor(
          'every node to be online',
          async () => (await operator.nodesOnline()) === Math.min(nodes, 1000),
          120_000,
        );
        const before = wallClockMs();
        const cpuBefore = cpuMs(server);
        const { assignments } = await operator.ask<{ assignments: unknown[] }>('POST', '/api/v1/assignments', {
          artifact: artifact.artifact_id,
          targets: ['all'],
        });
        if (assignments.length !== nodes) throw new Error(`${assignments.length} of ${nodes} were assigned`);
        const tookMs = (await attached) - before;
        cores = (cpuMs(server) - cpuBefore) / tookMs;
        context.say(`round ${round}: ${(tookMs / 1000).toFixed(2)} s`);
        if (round > 0) seconds.push(tookMs / 1000);
        const { items } = await operator.ask<{ items: { state: string }[] }>(
          'GET',
          `/artifacts/${artifact.artifact_id}/status?limit=1000`,
        );
        const wrong = items.filter(({ state }) => state !== 'attached');
        if (items.length !== nodes || wrong.length > 0)
          throw new Error(`${wrong.length} of ${items.length} are not attached: ${JSON.stringify(wrong[0])}`);
      }
      return [
        figure('assignment', {
          name: `${nodes} nodes: assigned, fetched, verified, reported`,
          unit: 's',
          samples: seconds,
          bar: atMost(10, 'median'),
          note: `from before the assignment until the last report was stored; SQLite; server busy ${cores.toFixed(2)} cores, the other taken by the simulated nodes; the bundle is read from disk once`,
        }),
      ];
    } finally {
      await operator.close();
    }
  },
};
