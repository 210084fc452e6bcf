import type { Command } from '@oclif/core/command';
import type { AegisConfig } from './oclif.ts';

/** Every command in one static table: what there is, in which group of the manual it stands, and where it comes from. A topic's module is
 *  loaded when one of its commands runs (or its help is asked for), so that `aegis submit` does not pay for the others.
 *  The key is the id as oclif writes it; the summary is shown in the manual and heads the command's own help. */

export type Group = 'run' | 'artifacts' | 'backups' | 'fleet' | 'server' | 'node' | 'setup';
export const GROUPS: Readonly<Record<Group, string>> = {
  run: 'RUN COMMANDS',
  artifacts: 'EBPF ARTIFACTS',
  backups: 'BACKUPS',
  fleet: 'FLEET',
  server: 'SERVER',
  node: 'NODE',
  setup: 'SETUP',
};

export type CommandClass = Command.Class & { start(argv: string[], config: AegisConfig): Promise<number | undefined> };

export interface TableEntry {
  readonly group: Group;
  readonly summary: string;
  load(): Promise<CommandClass>;
}

const entry = (group: Group, summary: string, load: () => Promise<unknown>): TableEntry => ({
  group,
  summary,
  load: load as () => Promise<CommandClass>,
});

const author = () => import('./topics/artifacts-author.ts');
const registry = () => import('./topics/artifacts-registry.ts');
const live = () => import('./topics/artifacts-live.ts');
const channel = () => import('./topics/channel.ts');
const configs = () => import('./topics/backups-configs.ts');
const configFiles = () => import('./topics/backups-configs-files.ts');
const configNodes = () => import('./topics/backups-configs-nodes.ts');
const look = () => import('./topics/backups-look.ts');
const runs = () => import('./topics/backups-runs.ts');
const commands = () => import('./topics/commands.ts');
const context = () => import('./topics/context.ts');
const kernel = () => import('./topics/daemon-kernel.ts');
const daemon = () => import('./topics/daemon.ts');
const daemonPolicy = () => import('./topics/daemon-policy.ts');
const nodes = () => import('./topics/nodes.ts');
const nodesAgents = () => import('./topics/nodes-agents.ts');
const accessKeys = () => import('./topics/access-keys.ts');
const accessTrust = () => import('./topics/access-trust.ts');
const accessAudit = () => import('./topics/access-audit.ts');
const server = () => import('./topics/server.ts');
const tokens = () => import('./topics/server-tokens.ts');

export const COMMANDS: Readonly<Record<string, TableEntry>> = {
  submit: entry(
    'run',
    'Run a command on nodes and stream its output',
    async () => (await import('./topics/submit.ts')).Submit,
  ),
  logs: entry('run', "Show a command's output, or follow it", async () => (await import('./topics/logs.ts')).Logs),
  'access:sign': entry(
    'run',
    'Add your signature to what another operator signed',
    async () => (await import('./topics/access-sign.ts')).AccessSign,
  ),
  events: entry('run', 'Show what happens in the fleet', async () => (await import('./topics/events.ts')).Events),
  'commands:list': entry('run', 'List commands, newest first', async () => (await commands()).CommandsList),
  'commands:show': entry('run', 'Show one command', async () => (await commands()).CommandsShow),
  'commands:executions': entry(
    'run',
    'Show a command on each node, each attempt',
    async () => (await commands()).CommandsExecutions,
  ),
  'commands:cancel': entry('run', 'Cancel what has not ended', async () => (await commands()).CommandsCancel),
  'commands:retry': entry(
    'run',
    'Submit again for the nodes on which it did not succeed',
    async () => (await commands()).CommandsRetry,
  ),
  'artifacts:init': entry(
    'artifacts',
    "Make a new artifact's folder from a template",
    async () => (await author()).ArtifactsInit,
  ),
  'artifacts:pack': entry(
    'artifacts',
    'Make a bundle of manifest and objects',
    async () => (await author()).ArtifactsPack,
  ),
  'artifacts:sign': entry('artifacts', 'Sign a bundle', async () => (await author()).ArtifactsSign),
  'artifacts:verify': entry(
    'artifacts',
    'Check a bundle and its signature',
    async () => (await author()).ArtifactsVerify,
  ),
  'artifacts:inspect': entry(
    'artifacts',
    'Look into a bundle or an object',
    async () => (await author()).ArtifactsInspect,
  ),
  'artifacts:push': entry('artifacts', 'Publish a bundle', async () => (await registry()).ArtifactsPush),
  'artifacts:pull': entry('artifacts', 'Fetch a bundle', async () => (await registry()).ArtifactsPull),
  'artifacts:list': entry('artifacts', 'List published artifacts', async () => (await registry()).ArtifactsList),
  'artifacts:show': entry('artifacts', 'Show one artifact', async () => (await registry()).ArtifactsShow),
  'artifacts:delete': entry(
    'artifacts',
    'Delete an artifact that no node has',
    async () => (await registry()).ArtifactsDelete,
  ),
  assign: entry('artifacts', 'Make nodes run an artifact', async () => (await import('./topics/assign.ts')).Assign),
  unassign: entry(
    'artifacts',
    'Take an artifact off nodes',
    async () => (await import('./topics/unassign.ts')).Unassign,
  ),
  'artifacts:status': entry(
    'artifacts',
    "Show each node's state, or watch it",
    async () => (await import('./topics/artifacts-status.ts')).ArtifactsStatus,
  ),
  'artifacts:maps': entry('artifacts', "Show an artifact's maps on a node", async () => (await live()).ArtifactsMaps),
  'artifacts:events': entry(
    'artifacts',
    "Stream an artifact's events from a node",
    async () => (await live()).ArtifactsEvents,
  ),
  'artifacts:measure': entry(
    'artifacts',
    "Measure an artifact's runs on a node",
    async () => (await live()).ArtifactsMeasure,
  ),
  'backups:configs:create': entry(
    'backups',
    'Say what is backed up, where to and when',
    async () => (await configs()).BackupsConfigsCreate,
  ),
  'backups:configs:edit': entry('backups', 'Change a configuration', async () => (await configs()).BackupsConfigsEdit),
  'backups:configs:list': entry('backups', 'List configurations', async () => (await configs()).BackupsConfigsList),
  'backups:configs:show': entry('backups', 'Show one configuration', async () => (await configs()).BackupsConfigsShow),
  'backups:configs:apply': entry(
    'backups',
    'Make configurations be as files say',
    async () => (await configFiles()).BackupsConfigsApply,
  ),
  'backups:configs:diff': entry(
    'backups',
    'Compare files with the server',
    async () => (await configFiles()).BackupsConfigsDiff,
  ),
  'backups:configs:assign': entry(
    'backups',
    'Let more nodes make it',
    async () => (await configNodes()).BackupsConfigsAssign,
  ),
  'backups:configs:unassign': entry(
    'backups',
    'Take nodes off it',
    async () => (await configNodes()).BackupsConfigsUnassign,
  ),
  'backups:configs:probe': entry('backups', 'Try a destination', async () => (await configNodes()).BackupsConfigsProbe),
  'backups:configs:delete': entry(
    'backups',
    'Remove a configuration; its archives stay',
    async () => (await configs()).BackupsConfigsDelete,
  ),
  'backups:run': entry(
    'backups',
    'Run a configuration now',
    async () => (await import('./topics/backups-run.ts')).BackupsRun,
  ),
  'backups:restore': entry(
    'backups',
    'Restore a backup here or on a node',
    async () => (await import('./topics/backups-restore.ts')).BackupsRestore,
  ),
  'backups:list': entry('backups', 'List what can be restored', async () => (await runs()).BackupsList),
  'backups:runs': entry('backups', 'List runs, or watch them', async () => (await runs()).BackupsRuns),
  'backups:show': entry('backups', 'Show one run', async () => (await runs()).BackupsShow),
  'backups:log': entry('backups', 'Print what was logged of a run', async () => (await runs()).BackupsLog),
  'backups:cancel': entry('backups', 'End a run', async () => (await runs()).BackupsCancel),
  'backups:ls': entry('backups', 'List what a backup holds', async () => (await look()).BackupsLs),
  'backups:cat': entry('backups', 'Write one file of a backup', async () => (await look()).BackupsCat),
  'backups:diff': entry('backups', 'Compare two backups', async () => (await look()).BackupsDiff),
  'backups:verify': entry('backups', 'Check a backup whole, or a sample', async () => (await look()).BackupsVerify),
  'backups:forget': entry('backups', 'Apply retention now, or show it', async () => (await runs()).BackupsForget),
  'backups:key:generate': entry(
    'backups',
    'Make the secret that opens backups',
    async () => (await import('./topics/backups-key.ts')).BackupsKeyGenerate,
  ),
  'nodes:list': entry('fleet', 'List nodes', async () => (await nodes()).NodesList),
  'nodes:show': entry('fleet', 'Show one node', async () => (await nodes()).NodesShow),
  'nodes:label': entry('fleet', "Set or remove a node's labels", async () => (await nodes()).NodesLabel),
  'nodes:maintenance': entry(
    'fleet',
    'Take a node into or out of maintenance',
    async () => (await nodes()).NodesMaintenance,
  ),
  'nodes:register-agent': entry(
    'fleet',
    'Register an agent without a daemon',
    async () => (await nodesAgents()).NodesRegisterAgent,
  ),
  'nodes:deactivate': entry(
    'fleet',
    "Refuse a node's credentials for a while",
    async () => (await nodesAgents()).NodesDeactivate,
  ),
  'nodes:activate': entry('fleet', "Take a node's credentials again", async () => (await nodesAgents()).NodesActivate),
  'nodes:retire': entry('fleet', 'Retire a node for good', async () => (await nodes()).NodesRetire),
  'nodes:logs': entry(
    'fleet',
    'Print what a node logged of its backups',
    async () => (await import('./topics/nodes-logs.ts')).NodesLogs,
  ),
  'nodes:trust': entry(
    'fleet',
    "Pin a node's keys, for restoring what it backed up",
    async () => (await import('./topics/nodes-trust.ts')).NodesTrust,
  ),
  'channel:status': entry('fleet', "Ask whether a node's channel is up", async () => (await channel()).ChannelStatus),
  'channel:send': entry('fleet', "Say something to a node's hook", async () => (await channel()).ChannelSend),
  'channel:broadcast': entry(
    'fleet',
    "Say something to every node's hook",
    async () => (await channel()).ChannelBroadcast,
  ),
  'channel:show': entry('fleet', 'Show what became of a message', async () => (await channel()).ChannelShow),
  'access:keys:create': entry('fleet', 'Make a key pair that signs', async () => (await accessKeys()).AccessKeysCreate),
  'access:keys:add': entry(
    'fleet',
    'Let a key sign orders or artifacts',
    async () => (await accessKeys()).AccessKeysAdd,
  ),
  'access:keys:list': entry('fleet', 'List the keys that nodes trust', async () => (await accessKeys()).AccessKeysList),
  'access:keys:revoke': entry('fleet', 'Revoke a key for good', async () => (await accessKeys()).AccessKeysRevoke),
  'access:keys:rotate': entry(
    'fleet',
    'Put a new key in the place of one',
    async () => (await import('./topics/access-keys-rotate.ts')).AccessKeysRotate,
  ),
  'access:trust:show': entry('fleet', 'Show what nodes trust', async () => (await accessTrust()).AccessTrustShow),
  'access:trust:draft': entry(
    'fleet',
    'Draft a change, for a root key that is elsewhere',
    async () => (await accessTrust()).AccessTrustDraft,
  ),
  'access:trust:sign': entry(
    'fleet',
    "Sign a draft with a key of the root's",
    async () => (await accessTrust()).AccessTrustSign,
  ),
  'access:trust:publish': entry(
    'fleet',
    'Put a signed draft in force',
    async () => (await accessTrust()).AccessTrustPublish,
  ),
  'access:trust:rotate-root': entry(
    'fleet',
    'Put another root in the place of the present one',
    async () => (await import('./topics/access-trust-root.ts')).AccessTrustRotateRoot,
  ),
  'access:audit:list': entry('fleet', 'List who did what', async () => (await accessAudit()).AccessAuditList),
  'access:audit:export': entry(
    'fleet',
    'Write the whole audit chain to a file',
    async () => (await accessAudit()).AccessAuditExport,
  ),
  'access:audit:verify': entry(
    'fleet',
    'Prove that nothing in the audit was changed or removed',
    async () => (await accessAudit()).AccessAuditVerify,
  ),
  'server:init': entry(
    'server',
    'Make a fleet: its keys and the data directory',
    async () => (await server()).ServerInit,
  ),
  'server:rotate-key': entry(
    'server',
    'Give the server a new key to sign with',
    async () => (await import('./topics/server-rotate-key.ts')).ServerRotateKey,
  ),
  'server:migrate': entry(
    'server',
    "Bring the database to this release's tables",
    async () => (await import('./topics/server-migrate.ts')).ServerMigrate,
  ),
  'nodes:sign': entry(
    'fleet',
    'Sign what is wished of nodes, with your own key',
    async () => (await import('./topics/nodes-sign.ts')).NodesSign,
  ),
  'server:start': entry('server', 'Run the control server in the foreground', async () => (await server()).ServerStart),
  'server:status': entry(
    'server',
    'Ask a server for its health and figures',
    async () => (await server()).ServerStatus,
  ),
  'server:config': entry(
    'server',
    'Print the settings in effect, and where each comes from',
    async () => (await server()).ServerConfigShow,
  ),
  'server:token': entry('server', 'Make an operator token', async () => (await tokens()).ServerToken),
  'server:token:list': entry('server', 'List operator tokens', async () => (await tokens()).ServerTokenList),
  'server:token:revoke': entry('server', 'Revoke an operator token', async () => (await tokens()).ServerTokenRevoke),
  'server:join-token': entry(
    'server',
    'Make a token with which machines join the fleet',
    async () => (await tokens()).ServerJoinToken,
  ),
  register: entry(
    'node',
    'Make this machine a node of a fleet',
    async () => (await import('./topics/register.ts')).Register,
  ),
  'daemon:start': entry(
    'node',
    "Run this machine's daemon in the foreground",
    async () => (await daemon()).DaemonStart,
  ),
  'daemon:status': entry('node', 'Ask the running daemon how it is', async () => (await daemon()).DaemonStatus),
  'daemon:drain': entry(
    'node',
    'Let running commands end and take no new ones',
    async () => (await daemon()).DaemonDrain,
  ),
  'daemon:config': entry(
    'node',
    'Print the settings in effect, and where each comes from',
    async () => (await daemon()).DaemonConfigShow,
  ),
  'daemon:policy:show': entry(
    'node',
    'Show whose word this node takes',
    async () => (await daemonPolicy()).DaemonPolicyShow,
  ),
  'daemon:policy:check': entry(
    'node',
    'Say whether this node would obey a directive, and why',
    async () => (await daemonPolicy()).DaemonPolicyCheck,
  ),
  'daemon:attachments': entry(
    'node',
    'Show the programs that are attached on this machine',
    async () => (await kernel()).DaemonAttachments,
  ),
  'daemon:maps': entry('node', "Show an artifact's maps on this machine", async () => (await kernel()).DaemonMaps),
  'daemon:events': entry(
    'node',
    "Stream an artifact's events on this machine",
    async () => (await kernel()).DaemonEvents,
  ),
  'context:list': entry('setup', 'List the servers that this user knows', async () => (await context()).ContextList),
  'context:use': entry('setup', 'Choose the server that commands go to', async () => (await context()).ContextUse),
  'context:set': entry('setup', 'Add or change a server', async () => (await context()).ContextSet),
  'context:remove': entry('setup', 'Forget a server', async () => (await context()).ContextRemove),
  completion: entry(
    'setup',
    'Print a completion script for a shell',
    async () => (await import('./topics/completion.ts')).Completion,
  ),
};

export const TOPICS: Readonly<Record<string, string>> = {
  access: 'Say whom the fleet trusts, and see who did what',
  'access:audit': 'See who did what, and prove that nothing of it was changed',
  'access:keys': 'Make keys, and say which of them nodes trust',
  'access:trust': 'Change what nodes trust where the root key is kept elsewhere, and the root itself',
  artifacts: 'Make, sign and publish eBPF artifacts, and watch them on nodes',
  backups: 'Back up folders of nodes, and restore them',
  'backups:configs': 'Say what is backed up, where to, when and by whom',
  'backups:key': 'Make keys for encrypted backups',
  channel: 'Say something to the hooks that nodes have for channels of yours',
  commands: 'Look at submitted commands, cancel and retry them',
  nodes: 'Look at the machines of the fleet and change what is known of them',
  server: 'Set up and run the control server',
  'server:token': 'Make, list and revoke operator tokens',
  daemon: "Run and look at this machine's daemon",
  'daemon:policy': 'See whose word this node takes, and what it would obey',
  context: 'Choose between several servers',
};

/** `aegis version` and `aegis help` are answered outside this table. */
export const idOf = (words: readonly string[]): string => words.join(':');
export const wordsOf = (id: string): string => id.replaceAll(':', ' ');

/** The command that the first words name (the longest match), and what follows it. */
export const findCommand = (argv: readonly string[]): { id: string; rest: string[] } | null => {
  for (let count = Math.min(3, argv.length); count > 0; count--) {
    const id = idOf(argv.slice(0, count));
    if (Object.hasOwn(COMMANDS, id)) return { id, rest: argv.slice(count) };
  }
  return null;
};
