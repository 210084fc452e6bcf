/** api: the server's operator side as the CLI calls it. Used by the topics; holds no presentation.
 *  Invariant: a route here is the protocol's own endpoint: method and path are checked against its literal types by the compiler.
 *  The endpoints' values stay unimported: building their zod schemas costs 12 ms, a third of a bare start. */
import type * as audit from '@aegis/protocol/access/audit-endpoints';
import type * as access from '@aegis/protocol/access/endpoints';
import type * as trust from '@aegis/protocol/access/trust-endpoints';
import type * as artifacts from '@aegis/protocol/artifacts/endpoints';
import type * as backupsAgents from '@aegis/protocol/backups/agent-endpoints';
import type * as backups from '@aegis/protocol/backups/endpoints';
import type * as commands from '@aegis/protocol/commands/endpoints';
import type { Endpoint } from '@aegis/protocol/endpoint';
import type * as events from '@aegis/protocol/events/endpoints';
import type * as messages from '@aegis/protocol/messages/endpoints';
import type * as nodes from '@aegis/protocol/nodes/endpoints';

export interface Route<E extends Endpoint> {
  readonly method: E['method'];
  readonly path: E['path'];
  /** Never set: carries the endpoint's type. */
  readonly endpoint?: E;
}

const route = <E extends Endpoint>(method: E['method'], path: E['path']): Route<E> => ({ method, path });

export const routes = {
  submitCommand: route<typeof commands.submitCommand>('POST', '/api/v1/commands'),
  listCommands: route<typeof commands.listCommands>('GET', '/api/v1/commands'),
  showCommand: route<typeof commands.showCommand>('GET', '/api/v1/commands/{id}'),
  cancelCommand: route<typeof commands.cancelCommand>('POST', '/api/v1/commands/{id}/cancel'),
  retryCommand: route<typeof commands.retryCommand>('POST', '/api/v1/commands/{id}/retry'),
  listExecutions: route<typeof commands.listExecutions>('GET', '/api/v1/commands/{id}/executions'),
  readLogs: route<typeof commands.readLogs>('GET', '/api/v1/commands/{id}/logs'),
  readEvents: route<typeof events.readEvents>('GET', '/api/v1/events'),
  statistics: route<typeof commands.statistics>('GET', '/api/v1/statistics'),
  listNodes: route<typeof nodes.apiListNodes>('GET', '/api/v1/agents'),
  showNode: route<typeof nodes.apiShowNode>('GET', '/api/v1/agents/{id}'),
  patchNode: route<typeof nodes.apiPatchNode>('PATCH', '/api/v1/agents/{id}'),
  deactivateNode: route<typeof nodes.deactivateNode>('POST', '/api/v1/agents/{id}/deactivate'),
  activateNode: route<typeof nodes.activateNode>('POST', '/api/v1/agents/{id}/activate'),
  registerAgent: route<typeof backupsAgents.registerAgent>('POST', '/api/agent/register'),
  showWishes: route<typeof nodes.showWishes>('GET', '/api/v1/agents/{id}/desired'),
  signWishes: route<typeof nodes.signWishes>('POST', '/api/v1/agents/{id}/desired'),
  retireNode: route<typeof nodes.apiRetireNode>('DELETE', '/api/v1/agents/{id}'),
  agentStatus: route<typeof messages.agentStatus>('GET', '/api/v1/agents/{id}/status'),
  sendMessage: route<typeof messages.sendMessage>('POST', '/api/v1/agents/{id}/send'),
  broadcastMessage: route<typeof messages.broadcastMessage>('POST', '/api/v1/agents/broadcast'),
  showMessage: route<typeof messages.showMessage>('GET', '/api/v1/agents/{id}/messages/{message_id}'),
  createArtifact: route<typeof artifacts.createArtifact>('POST', '/artifacts'),
  listArtifacts: route<typeof artifacts.listArtifacts>('GET', '/artifacts'),
  showArtifact: route<typeof artifacts.showArtifact>('GET', '/artifacts/{id}'),
  artifactBinary: route<typeof artifacts.artifactBinary>('GET', '/artifacts/{id}/binary'),
  deleteArtifact: route<typeof artifacts.deleteArtifact>('DELETE', '/artifacts/{id}'),
  assign: route<typeof artifacts.assignMany>('POST', '/api/v1/assignments'),
  unassign: route<typeof artifacts.unassignMany>('POST', '/api/v1/unassignments'),
  putHosts: route<typeof artifacts.putHosts>('PUT', '/hosts/{artifact_id}'),
  artifactStatus: route<typeof artifacts.allStatus>('GET', '/api/v1/artifact-status'),
  kernelReport: route<typeof artifacts.showKernelReport>('GET', '/api/v1/agents/{id}/kernel'),
  showTrust: route<typeof access.showTrust>('GET', '/api/v1/trust'),
  draftTrust: route<typeof trust.draftTrust>('POST', '/api/v1/trust/draft'),
  publishTrust: route<typeof trust.publishTrust>('POST', '/api/v1/trust'),
  listAudit: route<typeof audit.listAudit>('GET', '/api/v1/audit'),
  listKeys: route<typeof access.listKeys>('GET', '/api/v1/keys'),
  addKey: route<typeof access.addKey>('POST', '/api/v1/keys'),
  revokeKey: route<typeof access.revokeKey>('POST', '/api/v1/keys/{id}/revoke'),
  createConfig: route<typeof backups.createConfig>('POST', '/api/v1/backups/configs'),
  putConfig: route<typeof backups.putConfig>('PUT', '/api/v1/backups/configs/{id}'),
  listConfigs: route<typeof backups.listConfigs>('GET', '/api/v1/backups/configs'),
  showConfig: route<typeof backups.showConfig>('GET', '/api/v1/backups/configs/{id}'),
  deleteConfig: route<typeof backups.deleteConfig>('DELETE', '/api/v1/backups/configs/{id}'),
  probeConfig: route<typeof backups.probeConfig>('POST', '/api/v1/backups/configs/{id}/probe'),
  runConfig: route<typeof backups.runConfig>('POST', '/api/v1/backups/configs/{id}/run'),
  configNodes: route<typeof backups.configNodes>('GET', '/api/v1/backups/configs/{id}/nodes'),
  assignConfig: route<typeof backups.assignConfig>('POST', '/api/v1/backups/configs/{id}/assign'),
  forgetRuns: route<typeof backups.forgetRuns>('POST', '/api/v1/backups/configs/{id}/forget'),
  listRuns: route<typeof backups.listRuns>('GET', '/api/v1/backups/runs'),
  showRun: route<typeof backups.showRun>('GET', '/api/v1/backups/runs/{id}'),
  cancelRun: route<typeof backups.cancelRun>('POST', '/api/v1/backups/runs/{id}/cancel'),
  runLog: route<typeof backups.runLog>('GET', '/api/v1/backups/runs/{id}/log'),
  nodeLog: route<typeof backups.nodeLog>('GET', '/api/v1/agents/{id}/logs'),
  runLinks: route<typeof backups.runLinks>('POST', '/api/v1/backups/runs/{id}/links'),
  grantRestore: route<typeof backups.grantRestore>('POST', '/api/v1/backups/runs/{id}/grants'),
  verifyRun: route<typeof backups.verifyRun>('POST', '/api/v1/backups/runs/{id}/verify'),
  health: route<typeof nodes.healthz>('GET', '/healthz'),
} as const;
