import { randomInt } from 'node:crypto';
import { release } from 'node:os';
import { join, resolve } from 'node:path';
import { aegisExecPath } from '@aegis/native/binaries';
import { readBootId } from '@aegis/native/boot-id';
import { PAYLOAD_TYPES, signEnvelope } from '@aegis/protocol/access/dsse';
import { keyIdOf } from '@aegis/protocol/access/keys';
import type { KernelReport } from '@aegis/protocol/artifacts/status';
import { AegisError } from '@aegis/protocol/errors';
import { type FaultPoints, noFaultPoints } from '@aegis/protocol/fault-points';
import { uuidv7Generator } from '@aegis/protocol/ids';
import { VERSION } from '@aegis/protocol/version';
import { requireMessages } from './access/policy.ts';
import { type PolicyStatus, policyKeeper } from './access/policy-file.ts';
import { seenDirectives } from './access/seen.ts';
import { type TrustStatus, tellTrust, trustStatus } from './access/trust-report.ts';
import { signersNamedIn, trustStore } from './access/trust-store.ts';
import { directiveVerifier } from './access/verify-directive.ts';
import type { KernelEngine } from './artifacts/deployment.ts';
import { loadKernelEngine } from './artifacts/load-engine.ts';
import { type ArtifactsStatus, artifactsService } from './artifacts/service.ts';
import type { ArtifactView } from './artifacts/view.ts';
import { type BackupsService, backupsService } from './backups/service.ts';
import type { BackupsStatus, BackupView } from './backups/view.ts';
import { channelClient, liveSession } from './channel/channel-client.ts';
import { desiredLoop } from './channel/desired-loop.ts';
import { openLink } from './channel/link.ts';
import { linkLoop } from './channel/link-loop.ts';
import { pollCarrier } from './channel/poll-carrier.ts';
import { accountLookup, commandFacts } from './commands/process-spec.ts';
import { commandsRepository } from './commands/repository.ts';
import { type CommandsStatus, commandsService } from './commands/service.ts';
import type { DaemonConfig } from './config.ts';
import { type StreamedRequest, serveControl } from './control.ts';
import { enrolPatiently, proxyOf, tlsTrust, USER_AGENT } from './enrol.ts';
import { messagesService } from './messages/service.ts';
import { migrations } from './migrations.ts';
import { gatherFacts, ownSelf } from './nodes/facts.ts';
import { ownLauncher } from './nodes/own-launcher.ts';
import { nodeToken } from './nodes/token.ts';
import { type Clock, isoTime, systemClock } from './platform/clock.ts';
import { backoff } from './platform/http/backoff.ts';
import { httpClient } from './platform/http/client.ts';
import { type HttpDoor, nodeHttpDoor } from './platform/http/door.ts';
import { openJournal } from './platform/journal/journal.ts';
import { type Logger, silentLog } from './platform/log.ts';
import { ensurePrivateFolder } from './platform/private-files.ts';
import { writableCgroup } from './platform/process.ts';

/** The daemon's start order on one page: journal → identity → domains → carrier. */

export interface DaemonOptions {
  config: DaemonConfig;
  clock?: Clock;
  /** Default: the kernel's. */
  bootId?: string;
  log?: Logger;
  faults?: FaultPoints;
  random?: () => number;
  /** Instead of node:http(s), and of the channel: tests put a bad network in its place. */
  request?: HttpDoor;
  /** Instead of the one over libbpf: tests without a kernel. */
  kernelEngine?: () => Promise<KernelEngine>;
  /** Tries what this kernel can load, in a process of its own. Absent: no kernel report is sent. */
  probeKernel?: () => Promise<KernelReport>;
  /** Ends the waiting for a server that is not there yet. */
  signal?: AbortSignal;
}

export interface DaemonStatus extends CommandsStatus {
  uid: string;
  name: string;
  /** Of the key that signs; `aegis nodes trust` pins it. */
  key_id: string;
  /** Raw bytes, base64: what is sealed to it opens here alone. */
  sealing_key: string;
  fleet: string;
  server: string;
  version: string;
  pid: number;
  carrier: string;
  connected: boolean;
  last_contact: string | null;
  last_error: string | null;
  draining: boolean;
  /** Whose keys count here, and until when. */
  trust: TrustStatus;
  /** Whom this node obeys. */
  policy: PolicyStatus;
  artifacts: ArtifactsStatus;
  backups: BackupsStatus;
  journal_bytes: number;
  rss_bytes: number;
}

export interface RunningDaemon extends AsyncDisposable {
  readonly uid: string;
  readonly name: string;
  status(): DaemonStatus;
  /** Takes and starts nothing more; cancels still come. True when what ran has ended and was reported in time. */
  drain(timeoutSec?: number): Promise<boolean>;
  undrain(): void;
  /** What artifacts are wished and how they are. */
  attachments(): ArtifactView[];
  /** What is backed up here, when it runs next and how it ran last. */
  backups(): Promise<BackupView[]>;
  /** The revision of the desired state that is in the journal. */
  desiredRevision(): number;
  /** Compares artifacts with the kernel now. */
  reconcile(): Promise<void>;
  /** Throws when the journal does not work any more. */
  prove(): void;
  close(): Promise<void>;
}

const TIDY_MS = 3_600_000;
const FLUSH_MS = 5000;
/** Without a channel for so long, messages are asked for by polls. */
const MESSAGE_POLL_AFTER_MS = 3000;
const randomFraction = (): number => randomInt(2 ** 32) / 2 ** 32;

export const startDaemon = async (options: DaemonOptions): Promise<RunningDaemon> => {
  const { config, clock = systemClock, log = silentLog(), faults = noFaultPoints, random = randomFraction } = options;

  // Journal: also the lock that keeps a second daemon away.
  ensurePrivateFolder(config.data_dir);
  const policy = policyKeeper({ path: config.policy_file, clock, log });
  const journal = openJournal({
    path: join(config.data_dir, 'journal.db'),
    migrations,
    faults,
    maxBytes: config.journal_max_bytes,
  });
  const toClose: (() => unknown)[] = [() => journal.close()];
  try {
    // Identity.
    const { identity, keys } = await enrolPatiently({ ...options, log, random });
    const door =
      options.request ??
      closing(nodeHttpDoor({ tls: tlsTrust(config, identity.tls), proxy: proxyOf(config) }), toClose);
    const clientOptions = { server: identity.server, door, faults, userAgent: USER_AGENT };
    const facts = gatherFacts();
    const token = nodeToken({
      dataDir: config.data_dir,
      identity,
      key: keys.signing,
      facts,
      client: httpClient({ ...clientOptions, compress: false }),
      clock,
    });
    const compress = config.compress === 'on' || (config.compress === 'auto' && !isLoopback(identity.server));
    const http = httpClient({ ...clientOptions, compress, token });
    const live = liveSession();
    const linked = config.carrier !== 'poll' && !options.request;
    const client = linked ? channelClient({ http, live: live.get, mayPoll: config.carrier === 'auto', faults }) : http;
    const registry =
      config.registry === undefined
        ? client
        : httpClient({ ...clientOptions, server: config.registry, compress, token });

    // Domains.
    const seen = seenDirectives({ journal, maxRows: config.journal_max_seen });
    const trust = trustStore({ dataDir: config.data_dir, identity, client, clock, log });
    const launcher = ownLauncher();
    const tools = { ...facts.tools, aegis: launcher && { launcher, dataDir: resolve(config.data_dir) } };
    const accountOf = accountLookup();
    const verifier = directiveVerifier({
      fleet: identity.fleet,
      ownKeyId: keys.signing.keyId,
      servers: trust.signers,
      operators: trust.operators,
      policy: policy.current,
      self: ownSelf(identity, config, facts),
      factsOf: (body) => commandFacts(body, { tools, accountOf }),
      seen,
      clock,
    });
    const carrier = pollCarrier({
      client,
      renewTokenWhenDue: token.renewWhenDue,
      waitSec: config.poll_wait_sec,
      onMove: live.onChange,
      way: () => (live.get() ? 'ws' : 'poll'),
      clock,
      random,
      log,
    });
    const bootId = options.bootId ?? readBootId();
    const commands = commandsService({
      dataDir: config.data_dir,
      aegisExec: aegisExecPath(config.native_dir === undefined ? process.env : { AEGIS_NATIVE_DIR: config.native_dir }),
      bootId,
      repository: commandsRepository({ journal, keptReports: config.journal_kept_reports }),
      journal,
      access: { verify: verifier.verify, markSeen: seen.add },
      carrier,
      sign: (report) => signEnvelope(PAYLOAD_TYPES.report, report, keys.signing),
      settings: {
        nodeName: identity.name,
        bootId,
        tools,
        graceMs: config.grace_sec * 1000,
        drainMs: config.drain_sec * 1000,
        spoolBytes: config.spool_bytes,
        segmentBytes: config.segment_bytes,
        cgroup: config.cgroup === 'auto' ? writableCgroup() : null,
        accountOf,
      },
      limits: {
        maxConcurrent: config.max_concurrent,
        maxExecutions: config.journal_max_executions,
        undeliveredBytes: config.undelivered_bytes,
      },
      clock,
      random,
      faults,
      log,
    });

    const artifacts = artifactsService({
      dataDir: config.data_dir,
      journal,
      client: registry,
      verify: verifier.verifyDesired,
      artifactKeys: trust.artifactKeys,
      loadEngine: options.kernelEngine ?? (() => loadKernelEngine(identity.uid, config, { clock, faults, log })),
      kernelReport: options.probeKernel
        ? {
            probe: options.probeKernel,
            of: `${bootId} ${release()} ${VERSION}`,
            delayMs: config.kernel_report_delay_sec * 1000 * (1 + random()),
          }
        : null,
      limits: {
        maxArtifacts: config.journal_max_artifacts,
        maxBytes: config.artifacts_max_bytes,
        reconcileMs: config.artifacts_reconcile_sec * 1000,
        statusMs: config.artifacts_status_sec * 1000,
      },
      clock,
      random,
      faults,
      log,
    });

    const backups = backupsService({
      dataDir: config.data_dir,
      node: { uid: identity.uid, name: identity.name },
      keys,
      nativeDir: config.native_dir,
      journal,
      client,
      verify: verifier.verifyDesired,
      limits: {
        maxConfigs: config.backups_max_configs,
        maxConcurrent: config.backups_max_concurrent,
        partBytes: config.backups_part_bytes,
        spoolParts: config.backups_spool_parts,
        parallelParts: config.backups_parallel_parts,
        retryMs: config.backups_retry_sec * 1000,
        stallMs: config.backups_stall_sec * 1000,
      },
      clock,
      random,
      faults,
      log,
    });

    const messages = messagesService({
      dataDir: config.data_dir,
      nodeName: identity.name,
      hooks: config.hooks,
      journal,
      client,
      requireAllowed: () => requireMessages(policy.current()),
      polls:
        config.carrier === 'ws'
          ? null
          : {
              up: () => live.get() !== null,
              onChange: live.onChange,
              graceMs: linked ? MESSAGE_POLL_AFTER_MS : 0,
              waitSec: config.poll_wait_sec,
            },
      clock,
      random,
      log,
    });

    const stopping = new AbortController();
    const desired = desiredLoop({
      client,
      journal,
      refreshTrust: trust.refreshIfNewer,
      choose: verifier.chooseDesired,
      takers: { 'artifacts.assign': artifacts.take, 'backups.config': backups.take },
      backoff: backoff({ random }),
      log,
      signal: stopping.signal,
    });

    let draining = false;
    const status = (): DaemonStatus => {
      const { kind, connected, lastContactMs, lastError } = carrier.status();
      return {
        uid: identity.uid,
        name: identity.name,
        key_id: keys.signing.keyId,
        sealing_key: keys.sealing.publicRaw.toString('base64'),
        fleet: identity.fleet,
        server: identity.server,
        version: VERSION,
        pid: process.pid,
        carrier: kind,
        connected,
        last_contact: lastContactMs === null ? null : isoTime(lastContactMs),
        last_error: lastError,
        draining,
        trust: trustStatus(trust),
        policy: policy.status(),
        ...commands.status(),
        artifacts: artifacts.status(),
        backups: backups.status(),
        journal_bytes: journal.fileBytes(),
        rss_bytes: process.memoryUsage.rss(),
      };
    };
    const drain = async (timeoutSec = 60): Promise<boolean> => {
      draining = true;
      messages.drain(true);
      return commands.drain(timeoutSec * 1000);
    };
    const undrain = (): void => {
      draining = false;
      messages.drain(false);
      commands.undrain();
    };
    const shownAttachments = () => ({ node: identity.name, uid: identity.uid, artifacts: artifacts.views() });
    const control = await serveControl(config.data_dir, {
      status,
      drain: async (timeoutSec) => ({ drained: await drain(timeoutSec), ...status() }),
      undrain: () => {
        undrain();
        return status();
      },
      attachments: shownAttachments,
      reconcile: async () => {
        await artifacts.reconcile();
        return shownAttachments();
      },
      backups: async () => ({ node: identity.name, uid: identity.uid, configs: await backups.views() }),
      stream: (request, { write, signal }) => streamBackups(backups, request, write, signal),
    });
    const tidy = (): void => {
      try {
        seen.prune(clock.now());
        commands.tidy();
        artifacts.tidy();
        backups.tidy();
        messages.tidy();
      } catch (error) {
        log.error({ err: error }, 'cannot tidy the journal, trying again in an hour');
      }
    };
    const hourly = (): void => {
      tidy();
      tellTrust(facts.attrs, trust);
      // A revocation reaches this node with the desired state; should the server have failed to say so, then by this.
      trust.refresh().catch((error: unknown) => log.debug({ err: error }, 'the trust bundle was not asked for'));
    };
    const tidyTimer = setInterval(hourly, TIDY_MS).unref();

    // Carrier: last, when everything can take what it brings.
    trust.onChange(artifacts.trustChanged);
    trust.onChange(() => tellTrust(facts.attrs, trust));
    tellTrust(facts.attrs, trust);
    commands.adopt();
    artifacts.start();
    backups.start();
    messages.start();
    tidy();
    carrier.start({
      offers: async (offers) => {
        await trust.refreshIfUnknown(signersNamedIn(offers)).catch((error: unknown) => {
          log.debug({ err: error }, 'the trust bundle was not asked for');
        });
        return commands.accept(offers);
      },
      hasRoom: commands.hasRoom,
      hasBacklog: commands.hasBacklog,
      desiredRevision: desired.known,
      desired: desired.wake,
      reachable: (reachable) => {
        if (!reachable) return;
        artifacts.reached();
        backups.reached();
        // Without a bundle in force nothing is obeyed; the server may have one.
        if (trust.signers().size === 0)
          trust.refresh().catch((error: unknown) => log.warn({ err: error }, 'cannot ask for a trust bundle yet'));
      },
    });

    const linking = new AbortController();
    let linkedTo = '';
    trust.onChange(() => {
      // Whoever has that key now may be somebody else.
      if (!trust.signers().has(linkedTo))
        live.get()?.end(new AegisError('channel.bad_handshake', 'The key of the server at the other end was revoked.'));
    });
    const link = linked
      ? linkLoop({
          open: (signal) =>
            openLink(
              {
                server: identity.server,
                secure: { trust: tlsTrust(config, identity.tls), proxy: proxyOf(config) },
                userAgent: USER_AGENT,
                node: { ...identity, key: keys.signing },
                isServerKey: (raw) => {
                  linkedTo = keyIdOf(raw);
                  return trust.signers().has(linkedTo);
                },
                handlerOf: messages.handlerOf,
                channels: messages.channels,
                newId: uuidv7Generator(clock.now),
                clock,
              },
              signal,
            ),
          refreshTrust: trust.refresh,
          changed: live.set,
          clock,
          random,
          log,
          signal: linking.signal,
        })
      : null;

    let closed: Promise<void> | null = null;
    const close = async (): Promise<void> => {
      clearInterval(tidyTimer);
      carrier.endOffers();
      // Before those who asked for a backup are hung up on: that would cancel it, and they are to hear that it goes on.
      await backups.stop();
      await control.close();
      stopping.abort();
      await desired.stopped();
      await Promise.all([commands.stop(FLUSH_MS), artifacts.stop(), messages.stop()]);
      await carrier.stop();
      linking.abort();
      await link?.done;
      for (const one of toClose.reverse()) one();
    };
    const closeOnce = (): Promise<void> => {
      closed ??= close();
      return closed;
    };
    return {
      uid: identity.uid,
      name: identity.name,
      status,
      drain,
      undrain,
      attachments: artifacts.views,
      backups: backups.views,
      desiredRevision: desired.held,
      reconcile: artifacts.reconcile,
      prove: journal.prove,
      close: closeOnce,
      [Symbol.asyncDispose]: closeOnce,
    };
  } catch (error) {
    for (const one of toClose.reverse()) one();
    throw error;
  }
};

const streamBackups = (
  backups: BackupsService,
  request: StreamedRequest,
  write: (line: unknown) => Promise<void>,
  asker: AbortSignal,
): Promise<void> => {
  if (request.op === 'backup-run') return backups.run(request.config, write, asker);
  const { op: _op, ...restore } = request;
  return backups.restore(restore, write, asker);
};

const isLoopback = (server: string): boolean =>
  /^https?:\/\/(localhost|127\.\d+\.\d+\.\d+|\[::1\])(:\d+)?$/.test(server);

const closing = <T extends { close(): void }>(one: T, toClose: (() => unknown)[]): T => {
  toClose.push(() => one.close());
  return one;
};
