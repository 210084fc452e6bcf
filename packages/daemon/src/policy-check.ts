import { lstatSync } from 'node:fs';
import { join } from 'node:path';
import type { Envelope } from '@aegis/protocol/access/dsse';
import { keyPairFromPem } from '@aegis/protocol/access/keys';
import { operatorKeysOf } from '@aegis/protocol/access/operators';
import { keysFor } from '@aegis/protocol/access/trust-bundle';
import type { Selectable } from '@aegis/protocol/commands/selector';
import { AegisError } from '@aegis/protocol/errors';
import { NO_POLICY, obeyFor, type Policy } from './access/policy.ts';
import { readPolicyFile } from './access/policy-file.ts';
import { readTrust } from './access/trust-file.ts';
import { directiveVerifier, type Step } from './access/verify-directive.ts';
import { accountLookup, commandFacts } from './commands/process-spec.ts';
import type { DaemonConfig } from './config.ts';
import { gatherFacts, ownSelf } from './nodes/facts.ts';
import { readIdentity } from './nodes/identity.ts';
import { ownLauncher } from './nodes/own-launcher.ts';
import { readPrivateFile } from './platform/private-files.ts';

/** A door for the command line: this node's policy as its files say it, and what would become of a directive, without the daemon and without
 *  a server. Reads, and changes nothing. */

export { obeyFor, type Policy };

export interface ShownPolicy {
  /** Null: there is none, the server is obeyed. */
  file: string | null;
  sha256: string | null;
  policy: Policy;
  /** What targets and scopes are judged by; null before the node is enrolled. */
  node: Pick<Selectable, 'name' | 'site' | 'labels' | 'os' | 'capabilities'> | null;
}

type Settings = Pick<DaemonConfig, 'data_dir' | 'policy_file' | 'site' | 'labels'>;

/** Who asks need not be the daemon's user: its key is that one's. Before there is one: the caller's. */
const daemonUidOf = ({ data_dir }: Settings): number | undefined =>
  lstatSync(join(data_dir, 'node.key'), { throwIfNoEntry: false })?.uid ?? process.geteuid?.();

/** @throws AegisError config.invalid */
export const showPolicy = (config: Settings): ShownPolicy => {
  const file = readPolicyFile(config.policy_file, daemonUidOf(config));
  const identity = readIdentity(config.data_dir);
  const self = identity && ownSelf(identity, config, gatherFacts());
  return {
    file: file && config.policy_file,
    sha256: file?.sha256 ?? null,
    policy: file?.policy ?? NO_POLICY,
    node: self && {
      name: self.name,
      site: self.site,
      labels: self.labels,
      os: self.os,
      capabilities: self.capabilities,
    },
  };
};

export interface CheckedDirective extends ShownPolicy {
  obeyed: boolean;
  /** Every rule that was looked at, in order; the last one decided. */
  steps: Step[];
}

/** @throws AegisError nodes.not_enrolled, config.invalid */
export const checkDirective = (
  config: Settings,
  envelope: Envelope,
  { attempt, now }: { attempt: number; now: number },
): CheckedDirective => {
  const shown = showPolicy(config);
  const identity = readIdentity(config.data_dir);
  const pem = readPrivateFile(join(config.data_dir, 'node.key'));
  if (!identity || pem === null)
    throw new AegisError(
      'nodes.not_enrolled',
      `${config.data_dir} belongs to no node yet, so nobody is trusted there. Give --data-dir, or enrol it with 'aegis register'.`,
    );
  const { newest } = readTrust(config.data_dir, identity);
  const bundle = newest && Date.parse(newest.bundle.expires_at) > now ? newest.bundle : null;
  const facts = gatherFacts();
  const launcher = ownLauncher();
  const accountOf = accountLookup('/etc/passwd', daemonUidOf(config));
  const tools = { ...facts.tools, aegis: launcher && { launcher, dataDir: config.data_dir } };
  const verifier = directiveVerifier({
    fleet: identity.fleet,
    ownKeyId: keyPairFromPem(pem).keyId,
    servers: () => (bundle ? keysFor(bundle, 'serve', now) : new Map()),
    operators: () => (bundle ? operatorKeysOf(bundle) : new Map()),
    policy: () => shown.policy,
    self: ownSelf(identity, config, facts),
    factsOf: (body) => commandFacts(body, { tools, accountOf }),
    // The journal belongs to the daemon: whether it obeyed this before, it alone can say.
    seen: { has: () => false, floorMs: () => Number.NEGATIVE_INFINITY },
    clock: { now: () => now, monotonic: () => 0 },
  });
  const steps = verifier.explain(envelope, attempt);
  return { ...shown, obeyed: steps.every(({ good }) => good), steps };
};
