import { faultPointsFrom } from '@aegis/protocol/fault-points';
import { kernelEngine } from '../src/artifacts/kernel/engine.ts';
import { systemClock } from '../src/platform/clock.ts';
import { silentLog } from '../src/platform/log.ts';
import { type DeploymentText, deployment } from './engine-fixture.ts';

/** One engine in a process of its own, which the crash test lets die at a named point. Arguments: node uid, bpffs, and as JSON the
 *  deployments to apply one after the other (null: remove). */

const [nodeUid = '', bpffs = '', text = '[]'] = process.argv.slice(2);
const engine = kernelEngine({
  nodeUid,
  bpffs,
  faults: faultPointsFrom(process.env),
  log: silentLog(),
  clock: systemClock,
  networkTtlMs: 0,
});
for (const one of JSON.parse(text) as (DeploymentText | null)[]) {
  if (one) await engine.apply(deployment(one));
  else await engine.remove('filter');
}
engine.close();
