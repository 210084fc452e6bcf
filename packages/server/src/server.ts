/** The control server's start order on one page: storage → domains → listeners; and its stop, the other way round. */
import { join } from 'node:path';
import { readBundle } from '@aegis/archive/bundle/read';
import { operatorKeysOf } from '@aegis/protocol/access/operators';
import type { Door } from '@aegis/protocol/endpoint';
import { type FaultPoints, noFaultPoints } from '@aegis/protocol/fault-points';
import { uuidv7Generator } from '@aegis/protocol/ids';
import { auditLoops } from './access/audit/loops.ts';
import { auditRoutes } from './access/audit/routes.ts';
import { type AuditService, auditService } from './access/audit/service.ts';
import { authenticator } from './access/authenticate.ts';
import { keysService } from './access/keys-service.ts';
import { nodeTokens } from './access/node-tokens.ts';
import { createPrivateFile, readPrivateFile } from './access/private-files.ts';
import { accessRoutes } from './access/routes.ts';
import { runningTokens } from './access/tokens-running.ts';
import { trustOf } from './access/trust.ts';
import { trustLoop, trustWarnings } from './access/trust-loop.ts';
import { trustRoutes } from './access/trust-routes.ts';
import { artifactsRoutes } from './artifacts/routes.ts';
import { type ArtifactsService, artifactsService } from './artifacts/service.ts';
import { blobSweepLoop } from './artifacts/sweep-loop.ts';
import { agentErrors, agentRoutes } from './backups/agents/routes.ts';
import { backupsRoutes } from './backups/routes.ts';
import { backupsNodeRoutes } from './backups/routes-nodes.ts';
import { backupsObjectRoutes } from './backups/routes-objects.ts';
import { type BackupsService, backupsService } from './backups/service.ts';
import { uploadSweepLoop } from './backups/upload-sweep.ts';
import { channelCalls } from './channel/calls.ts';
import { connectionsOf } from './channel/connections-repository.ts';
import { CHANNEL_UPGRADE, gateway } from './channel/gateway.ts';
import { NODE_TOPICS, nodeTopic } from './commands/changes.ts';
import { expiryLoop } from './commands/expiry-loop.ts';
import { logRoutes } from './commands/routes-logs.ts';
import { nodeRoutes } from './commands/routes-nodes.ts';
import { operatorRoutes } from './commands/routes-operators.ts';
import { type CommandsService, commandsService } from './commands/service.ts';
import type { ServerConfig } from './config.ts';
import { type PresenceEvents, presenceEvents } from './events/presence.ts';
import { eventRetentionLoop } from './events/retention-loop.ts';
import { eventsRoutes } from './events/routes.ts';
import { type EventsService, eventsService } from './events/service.ts';
import { eventSettings } from './events/settings.ts';
import { isLoopbackHost, parseListen } from './listen-address.ts';
import { messagesRoutes } from './messages/routes.ts';
import { type MessagesService, messagesService } from './messages/service.ts';
import { messageSweepLoop } from './messages/sweep-loop.ts';
import { agentsService } from './nodes/agents-service.ts';
import { enrolmentService } from './nodes/enrolment-service.ts';
import { keylessService } from './nodes/keyless-service.ts';
import { operatorWishes } from './nodes/operator-wishes.ts';
import { presence } from './nodes/presence.ts';
import { presenceLoop } from './nodes/presence-loop.ts';
import { registrationsRepository } from './nodes/registrations-repository.ts';
import { nodesRepository } from './nodes/repository.ts';
import { nodesRoutes } from './nodes/routes.ts';
import { nodeScopes } from './nodes/scope-repository.ts';
import { type NodesService, nodesService } from './nodes/service.ts';
import { sweepLoop } from './nodes/sweep-loop.ts';
import { openBus, openDatabase, openDataDir, openTls, warnOfPlainText } from './opening.ts';
import { openBlobs } from './platform/blobs.ts';
import { type Clock, systemClock } from './platform/clock.ts';
import { bodyBudget } from './platform/http/body-budget.ts';
import { healthRoutes } from './platform/http/health-routes.ts';
import { type Listener, listen } from './platform/http/listener.ts';
import type { Route } from './platform/http/route.ts';
import { tlsReloadLoop } from './platform/http/tls-reload-loop.ts';
import { type Log, silentLog } from './platform/log.ts';
import { maintenanceLoop } from './platform/storage/maintenance-loop.ts';
import { backupSettings, callerLimits, channelLimits, commandLimits, messageLimits } from './settings.ts';
import type { Storage } from './tables.ts';

export interface RunningServer extends AsyncDisposable {
  /** Where each door is served; `all` where one address serves every door. */
  addresses: Partial<Record<Door | 'all', string>>;
  fleet: string;
  rootFingerprint: string;
  dataDir: string;
  /** For tests. */
  storage: Storage;
  commands: CommandsService;
  artifacts: ArtifactsService;
  backups: BackupsService;
  messages: MessagesService;
  nodes: NodesService;
  audit: AuditService;
  events: EventsService;
  presence: PresenceEvents;
  /** Resolves when all is closed; safe to call again. */
  close(): Promise<void>;
}

export interface StartOptions {
  config: ServerConfig;
  clock?: Clock;
  log?: Log;
  faults?: FaultPoints;
}

/** How long what other server processes may change is taken from memory where no wake-up told of a change. */
const KEEP_NODES_MS = 1000;
/** Topics: a node is another than it was. */
const NODE_FACTS = 'node-facts';

/** @throws AegisError config.invalid, http.unavailable (the database cannot be reached) */
export const startServer = async (options: StartOptions): Promise<RunningServer> => {
  const { config, clock = systemClock, log = silentLog(), faults = noFaultPoints } = options;
  await using undo = new AsyncDisposableStack(); // on a failure below, everything so far is released in reverse
  const stopping = new AbortController();

  // Storage.
  const { dataDir, keys } = openDataDir(config, clock, log, undo);
  const tls = openTls(config, dataDir, clock, log);
  const storage = await openDatabase(config, { dataDir, keys, clock, faults }, log, undo);
  const bus = await openBus(config, keys, log, undo);

  // Domains.
  const newId = uuidv7Generator(clock.now);
  const trust = trustOf({ dataDir, keys, clock, faults, shared: storage.kind === 'postgres' });
  const audit = auditService({
    storage,
    clock,
    log,
    fleet: keys.fleet,
    serverKey: trust.serverKey,
    retentionDays: config.audit.retention_days,
  });
  undo.defer(() => audit.close().catch((err: unknown) => log.warn({ err }, 'the audit chain is not signed')));
  const { tokens, watch } = runningTokens({
    ...{ storage, bus, clock, dataDir, fleet: keys.fleet, trust, joinMaster: keys.secrets.join_master },
    ...{ settings: config, stopping: stopping.signal, log },
  });
  const issuer = nodeTokens({
    secret: config.jwt_signing_secret ?? keys.secrets.jwt_signing_secret,
    fleet: keys.fleet,
    now: clock.now,
  });
  const events = eventsService({
    storage,
    bus,
    clock,
    log,
    nodes: { find: (id, within) => nodes.show(id, within) },
    actorOf: tokens.actorOf,
    ...eventSettings(config.events),
    stopping: stopping.signal,
  });
  await events.start();
  const rows = nodesRepository(storage, events.publish);
  const registrations = registrationsRepository(storage);
  const rules = {
    degradedAfterMs: config.nodes.degraded_after_sec * 1000,
    offlineAfterMs: config.nodes.offline_after_sec * 1000,
  };
  const keepMs = storage.kind === 'sqlite' ? Number.POSITIVE_INFINITY : KEEP_NODES_MS;
  const nodes = nodesService({
    repository: rows,
    presence: presence(rules, clock),
    clock,
    keepMs,
    tellChanged: (uid) => bus.publish(`${NODE_FACTS}:${uid}`),
    onChangedElsewhere: (listener) => bus.onRemote(NODE_FACTS, listener),
  });
  undo.defer(() =>
    nodes.storeSeen().catch((err: unknown) => log.warn({ err }, 'the last signs of life are not stored')),
  );
  const shared = { nodes: rows, joinTokens: tokens, tokens: issuer, clock, newId };
  const enrolment = enrolmentService({
    ...shared,
    registrations,
    identity: {
      fleet: keys.fleet,
      server: trust.serverKey,
      servingKeys: trust.servingKeys,
      get rootFingerprint() {
        return trust.rootFingerprint();
      },
      get trustBundle() {
        return trust.current().envelope;
      },
    },
    tokenTtlSec: config.nodes.token_ttl_sec,
    pendingEach: config.rate_limits.enrolment_pending,
    changed: nodes.changed,
  });
  const keyless = keylessService({
    ...shared,
    allowed: config.nodes.keyless,
    tokenTtlSec: config.nodes.keyless_token_ttl_sec,
    changed: nodes.changed,
  });
  const agents = agentsService({
    nodes: rows,
    clock,
    newId,
    allowed: config.nodes.keyless,
    seen: nodes.seen,
    changed: nodes.changed,
  });
  const blobs = await openBlobs({
    folder: join(dataDir, 'blobs'),
    cacheBytes: config.artifacts.cache_bytes,
    faults,
  });
  const artifacts = artifactsService({
    storage,
    blobs,
    readBundle,
    trust,
    signer: { fleet: keys.fleet, key: trust.serverKey },
    nodes: {
      named: nodes.hostsNamed,
      resolve: nodes.resolveTargets,
      activeIn: async (tx, uids) => new Set((await rows.activeIn(tx, uids)).map(({ uid }) => uid)),
      activeUids: async () => (await rows.targets()).map(({ uid }) => uid),
      onlineOf: nodes.onlineOf,
      find: nodes.show,
    },
    wake: (uid) => bus.publish(nodeTopic(uid)),
    onWoken: (listener) => bus.onRemote(NODE_TOPICS, listener),
    clock,
    newId,
    takesUnsigned: config.dev,
    tell: events.publish,
    keepMs,
    limits: {
      maxArtifacts: config.artifacts.max_artifacts,
      maxAssignmentsPerNode: config.artifacts.max_assignments_per_node,
    },
  });
  await artifacts.library.sweep();
  trust.onChange(artifacts.desired.announceTrust);
  trust.onChange(audit.signHead); // by the key that is in force now
  // A crash may have come between the change and the telling. The first version is what every node enrolled with.
  if (trust.current().version > 1) await artifacts.desired.announceTrust(trust.current().version);
  const backups = backupsService({
    storage,
    dataDir,
    keyFile: { read: readPrivateFile, create: createPrivateFile },
    signer: { fleet: keys.fleet, key: trust.serverKey, keyOf: trust.servedWith },
    nodes: {
      candidates: nodes.candidates,
      candidate: nodes.candidate,
      activeIn: async (tx, uids) => new Set((await rows.activeIn(tx, uids)).map(({ uid }) => uid)),
      onlineOf: nodes.onlineOf,
      find: nodes.show,
      namesWithin: nodes.namesWithin,
      keysOf: nodes.keysOf,
    },
    desired: artifacts.desired,
    tell: events.publish,
    ...backupSettings(config),
    clock,
    newId,
    log,
  });
  undo.defer(() => backups.s3.stores.close());
  undo.defer(() => backups.own.close());
  nodes.onChange(backups.reconciler.nodeChanged);
  nodes.onChange(events.nodeChanged);
  const presenceTold = presenceEvents({
    storage,
    publish: events.publish,
    bus,
    clock,
    log,
    lastSeen: nodes.lastSeen,
    offlineAfterMs: rules.offlineAfterMs,
    stopping: stopping.signal,
  });
  presenceTold.start(stopping.signal);
  nodes.onRetire({ inTransaction: presenceTold.nodeRetired, afterwards: () => undefined });
  bus.onRemote(NODE_FACTS, events.nodeChanged);
  const commands = commandsService({
    storage,
    bus,
    clock,
    fleet: keys.fleet,
    serverKey: trust.serverKey,
    operators: () => operatorKeysOf(trust.current().bundle),
    nodes: {
      resolve: nodes.resolveTargets,
      uidsWithin: nodes.uidsWithin,
      namesWithin: nodes.namesWithin,
      publicKeyOf: async (uid) => (await nodes.byUid(uid))?.publicKey ?? null,
      keyIdsOf: nodes.keyIdsOf,
      active: nodes.activeOf,
      lastSeen: nodes.lastSeen,
      standing: {
        require: nodes.actorOf,
        watch: (uid, listener) => bus.subscribe(`${NODE_FACTS}:${uid}`, listener),
      },
    },
    desired: artifacts.desired,
    tell: events.statements,
    limits: commandLimits(config),
  });
  nodes.onRetire({ inTransaction: commands.cancel.nodeRetired, afterwards: commands.cancel.wakeLate });
  nodes.onRetire({ inTransaction: artifacts.nodeRetired, afterwards: () => undefined }); // it locks the node's desired state for the next
  nodes.onRetire({ inTransaction: backups.nodeRetired, afterwards: () => undefined });
  const attached = connectionsOf(storage, () => channel.connections, log);
  const messages = messagesService({
    storage,
    tell: events.publish,
    bus,
    clock,
    newId,
    random: Math.random,
    log,
    secret: keys.secrets.join_master,
    nodes: { find: nodes.show, all: nodes.named },
    connections: attached,
    limits: messageLimits(config),
  });
  nodes.onRetire({ inTransaction: messages.nodeRetired, afterwards: () => undefined });
  messageSweepLoop(messages, stopping.signal, log);
  await attached.start(stopping.signal);
  blobSweepLoop(artifacts.library.sweep, stopping.signal, log);
  expiryLoop(commands.expiry, stopping.signal, log);
  backups.reconciler.start(stopping.signal);
  backups.loss.start(stopping.signal);
  backups.sweep.start(stopping.signal);
  backups.upkeep.start(stopping.signal);
  backups.ownSchedule.start(stopping.signal);
  uploadSweepLoop(backups.s3.sweep, config.backups.sweep_uploads_after_sec * 1000, stopping.signal, log);
  presenceLoop(nodes, stopping.signal, log);
  sweepLoop(registrations, clock, stopping.signal, log);
  maintenanceLoop(storage, stopping.signal, log);
  eventRetentionLoop(events.retention, stopping.signal, log);
  trustLoop({ trust, audit, newId, clock, log, signal: stopping.signal });
  auditLoops(audit, config.audit.sign_every_sec, stopping.signal, log);

  const wishes = operatorWishes({
    storage,
    fleet: keys.fleet,
    operators: () => operatorKeysOf(trust.current().bundle),
    find: nodes.show,
    sources: [artifacts.directivesFor, backups.directivesFor],
    desired: artifacts.desired,
    clock,
  });
  nodes.onRetire({ inTransaction: wishes.nodeRetired, afterwards: () => undefined });

  // Listeners.
  const routes: Route[] = [
    ...accessRoutes({ trust, keys: keysService(trust), tokens }),
    ...trustRoutes(trust),
    ...auditRoutes(audit, () => ({
      trust_bundle: trust.current().envelope,
      root_fingerprint: trust.rootFingerprint(),
    })),
    ...nodesRoutes(
      nodes,
      enrolment,
      keyless,
      async (node) => {
        const trust_version = trust.current().version;
        const revision = await artifacts.desired.storedRevisionOf(node.uid); // before the rows: they may be newer, never older
        return { ...(await wishes.directivesFor(node)), revision, trust_version };
      },
      wishes,
    ),
    ...artifactsRoutes(artifacts),
    ...backupsRoutes(backups),
    ...backupsNodeRoutes(backups),
    ...backupsObjectRoutes(backups),
    ...agentRoutes(backups, agents),
    ...nodeRoutes(commands),
    ...operatorRoutes(commands),
    ...logRoutes(commands),
    ...eventsRoutes(events),
    ...messagesRoutes(messages),
    ...healthRoutes({
      clock,
      storage,
      warnings: () => trustWarnings(trust),
      nodes: nodes.statistics,
      commands: commands.listing.figures,
    }),
  ];
  const bodies = bodyBudget(config.http.body_budget_bytes);
  const channel = gateway({
    fleet: keys.fleet,
    identity: trust.serverKey,
    nodes: { nodeOf: nodes.forChannel, actorOf: nodes.actorOf, attend: nodes.attend },
    attached: (connection) =>
      both(both(attached.attached(connection), messages.connected(connection)), presenceTold.connected(connection)),
    calls: channelCalls(routes, { faults, refused: audit.hook.refused, newId, stopping: stopping.signal }),
    refused: ({ agentId, address, error, node }) => {
      log.info({ agent_id: agentId, address, code: error.code }, 'a node was refused on the channel');
      audit.hook.refused({ endpoint: CHANNEL_UPGRADE, actor: node, address, requestId: newId(), error });
    },
    limits: channelLimits(config),
    clock: { now: clock.now, monotonic: () => performance.now() },
    newId,
    log,
    stopping: stopping.signal,
  });
  nodes.onChange(channel.recheck);
  bus.onRemote(NODE_FACTS, channel.recheck);
  if (tls) tlsReloadLoop(tls.check, config.tls_reload_sec * 1000, stopping.signal, log);
  const limits = callerLimits(config, clock);
  const listeners: Listener[] = [];
  const stopMs = config.stop_timeout_sec * 1000;
  undo.defer(async () => {
    stopping.abort();
    await channel.close(stopMs);
    await Promise.all(listeners.map((listener) => listener.close(stopMs)));
  });
  for (const text of config.listen) {
    const at = parseListen(text);
    if (!tls && !isLoopbackHost(at.host)) warnOfPlainText(config, text, log);
    listeners.push(
      await listen(at, routes, {
        authenticate: authenticator({
          tokens,
          nodeTokens: issuer,
          nodeOf: nodes.actorOf,
          agentOf: agents.agentOf,
          dev: config.dev,
        }),
        scopeOf: nodeScopes(storage.kind),
        attending: (node, { id, agentKey }) => {
          if (id === 'pollCommands' || agentKey) presenceTold.polled(node);
          return nodes.attend(node.uid);
        },
        watchToken: watch.watch,
        audit: audit.hook,
        bodies,
        faults,
        log,
        limits,
        besideErrors: agentErrors,
        stopping: stopping.signal,
        tls,
        behindProxy: config.behind_proxy,
        upgrades: {
          path: CHANNEL_UPGRADE.path,
          door: 'gateway',
          most: config.channel.max_connections,
          take: channel.upgrade,
        },
        newId,
      }),
    );
  }

  const release = undo.move();
  let closing: Promise<void> | undefined;
  const close = (): Promise<void> => {
    closing ??= release.disposeAsync();
    return closing;
  };
  return {
    addresses: addressesOf(listeners),
    fleet: keys.fleet,
    get rootFingerprint() {
      return trust.rootFingerprint();
    },
    dataDir,
    storage,
    commands,
    artifacts,
    backups,
    messages,
    nodes,
    audit,
    events,
    presence: presenceTold,
    close,
    [Symbol.asyncDispose]: close,
  };
};

const both = (one: () => void, other: () => void) => (): void => {
  one();
  other();
};

const addressesOf = (listeners: readonly Listener[]): RunningServer['addresses'] => {
  const addresses: RunningServer['addresses'] = {};
  for (const { doors, url } of listeners) for (const door of doors) addresses[door] ??= url;
  return addresses;
};
