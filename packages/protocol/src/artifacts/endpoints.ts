import * as z from 'zod/mini';
import { Envelope } from '../access/dsse.ts';
import { endpoint } from '../endpoint.ts';
import { NextCursor, Page } from '../paging.ts';
import { MAX_SIGNATURE_CHARS } from './assignment.ts';
import { ConstantValue } from './constants.ts';
import { Architecture, ArtifactName, ArtifactVersion, BUNDLE_LIMITS, KernelVersion, Manifest } from './manifest.ts';
import { ArtifactState, KernelReport, StatusReport } from './status.ts';

const tag = 'artifacts';
/** A UUID that we made; anything else is simply unknown (the seed's `artifact_123`). */
const ById = z.object({ id: z.string().check(z.minLength(1), z.maxLength(128)) });
const HostId = z.string().check(z.minLength(1), z.maxLength(128));
const OnHost = z.object({ artifact_id: ById.shape.id, host_id: HostId });

export const Signer = z.object({
  keyid: z.string(),
  name: z.string(),
  state: z.enum(['active', 'revoked', 'unknown']),
});
export const Artifact = z.object({
  artifact_id: z.uuid(),
  name: ArtifactName,
  version: ArtifactVersion,
  description: z.string(),
  type: z.string(),
  architecture: z.string(),
  kernel_version: z.string(),
  tags: z.array(z.string()),
  metadata: z.record(z.string(), z.string()),
  /** SHA-256 of the bundle, hexadecimal. */
  checksum: z.string(),
  size: z.int(),
  /** False for a bundle that was stored under --dev without a signature: no node loads it. */
  signed: z.boolean(),
  signature: z.nullable(z.string()),
  signer: z.nullable(Signer),
  /** Nodes that it is assigned to. */
  assigned: z.int(),
  created_at: z.string(),
  created_by: z.string(),
});
export type Artifact = z.infer<typeof Artifact>;
export const ArtifactDetail = z.object({ ...Artifact.shape, manifest: Manifest });
export type ArtifactDetail = z.infer<typeof ArtifactDetail>;

/** As in seed 000. Outer fields, where given, must equal the manifest's; unknown ones are ignored. */
export const NewArtifact = z.object({
  name: ArtifactName,
  version: ArtifactVersion,
  description: z.optional(z.string().check(z.maxLength(1024))),
  type: z.optional(z.string().check(z.maxLength(64))),
  architecture: z.optional(Architecture),
  kernel_version: z.optional(KernelVersion),
  metadata: z.optional(z.record(z.string(), z.string())),
  tags: z.optional(z.array(z.string()).check(z.maxLength(32))),
  /** The tar.zst in base64. */
  data: z.string().check(z.maxLength(Math.ceil(BUNDLE_LIMITS.packedBytes / 3) * 4)),
  signature: z.optional(z.string().check(z.maxLength(MAX_SIGNATURE_CHARS))),
});
export type NewArtifact = z.infer<typeof NewArtifact>;

/** The same as form parts: `curl -F bundle=@FILE -F signature=<FILE.minisig`. What is left out is the manifest's. */
export const ArtifactForm = z.strictObject({
  bundle: z.instanceof(Uint8Array),
  signature: NewArtifact.shape.signature,
  name: z.optional(ArtifactName),
  version: z.optional(ArtifactVersion),
  description: NewArtifact.shape.description,
  type: NewArtifact.shape.type,
  architecture: NewArtifact.shape.architecture,
  kernel_version: NewArtifact.shape.kernel_version,
});
export type ArtifactForm = z.infer<typeof ArtifactForm>;

export const createArtifact = endpoint({
  id: 'createArtifact',
  door: 'registry',
  method: 'POST',
  path: '/artifacts',
  caller: 'operator',
  scope: 'fleet',
  tag,
  summary:
    'Publish a bundle (JSON, or multipart/form-data with the parts bundle and signature); the same bytes again are 200',
  body: NewArtifact,
  form: ArtifactForm,
  bodyLimitBytes: 24 * 1024 * 1024,
  response: Artifact,
  status: 201,
});
export const ArtifactQuery = z.object({
  name: z.optional(ArtifactName),
  version: z.optional(ArtifactVersion),
  tag: z.optional(z.string().check(z.maxLength(64))),
  type: z.optional(z.string().check(z.maxLength(64))),
  architecture: z.optional(Architecture),
  ...Page,
});
export type ArtifactQuery = z.infer<typeof ArtifactQuery>;
export const ArtifactList = z.object({ artifacts: z.array(Artifact), total: z.int(), next_cursor: NextCursor });
export const listArtifacts = endpoint({
  id: 'listArtifacts',
  door: 'registry',
  method: 'GET',
  path: '/artifacts',
  caller: 'viewer',
  scope: 'nodes',
  tag,
  summary: 'Published artifacts, the newest first, filtered and in pages',
  query: ArtifactQuery,
  response: ArtifactList,
});
export const showArtifact = endpoint({
  id: 'showArtifact',
  door: 'registry',
  method: 'GET',
  path: '/artifacts/{id}',
  caller: 'viewer',
  scope: 'nodes',
  tag,
  summary: 'One artifact with its manifest and signature',
  params: ById,
  response: ArtifactDetail,
});
export const artifactBinary = endpoint({
  id: 'artifactBinary',
  door: 'registry',
  method: 'GET',
  path: '/artifacts/{id}/binary',
  caller: 'viewer-or-node',
  scope: 'none',
  tag,
  summary: 'The bundle, byte for byte (ETag, ranges, Repr-Digest)',
  params: ById,
  produces: ['application/zstd'],
});
export const deleteArtifact = endpoint({
  id: 'deleteArtifact',
  door: 'registry',
  method: 'DELETE',
  path: '/artifacts/{id}',
  caller: 'operator',
  scope: 'fleet',
  tag,
  summary: 'Remove an artifact that is assigned to no node; its name and version stay taken by its digest',
  params: ById,
  response: Artifact,
});

/** One current piece of desired state of a node. */
export const ForHost = z.object({
  artifacts: z.array(Artifact),
  total: z.int(),
  /** To the node itself only: what it obeys, tombstones that it has not confirmed included. */
  directives: z.array(Envelope),
  /** The node's desired-state revision that this answer shows. */
  revision: z.int(),
  trust_version: z.int(),
});
export type ForHost = z.infer<typeof ForHost>;
export const artifactsForHost = endpoint({
  id: 'artifactsForHost',
  door: 'registry',
  method: 'GET',
  path: '/artifacts/for-host/{host_id}',
  caller: 'viewer-or-node',
  scope: 'nodes',
  tag,
  summary: 'What a node is to run; a host that nobody knows: nothing',
  params: z.object({ host_id: HostId }),
  response: ForHost,
});

export const Settings = z.record(z.string().check(z.maxLength(256)), ConstantValue);
export const Assignment = z.object({
  artifact_id: z.uuid(),
  name: ArtifactName,
  version: ArtifactVersion,
  host_id: z.uuid(),
  host: z.string(),
  generation: z.int(),
  constants: Settings,
  assigned_at: z.string(),
  assigned_by: z.string(),
});
export type Assignment = z.infer<typeof Assignment>;
export const NewAssignment = z.object({
  /** Constants that the manifest declares settable; those not named keep the manifest's value. */
  constants: z.optional(Settings),
});
export const assignArtifact = endpoint({
  id: 'assignArtifact',
  door: 'registry',
  method: 'POST',
  path: '/assign/{artifact_id}/{host_id}',
  caller: 'operator',
  scope: 'nodes',
  tag,
  summary:
    'Assign an artifact to a node; another version of the same name is replaced. The same wish again changes nothing',
  params: OnHost,
  body: NewAssignment,
  bodyOptional: true,
  response: z.object({ ...Assignment.shape, changed: z.boolean() }),
});
export const unassignArtifact = endpoint({
  id: 'unassignArtifact',
  door: 'registry',
  method: 'DELETE',
  path: '/unassign/{artifact_id}/{host_id}',
  caller: 'operator',
  scope: 'nodes',
  tag,
  summary: 'Take an artifact off a node (a signed tombstone)',
  params: OnHost,
  response: Assignment,
});
export const HostsOf = z.object({
  /** Names or uids: the whole set. */
  hosts: z.array(HostId).check(z.maxLength(100_000)),
  constants: z.optional(Settings),
});
export const HostsAnswer = z.object({
  added: z.array(z.string()),
  removed: z.array(z.string()),
  unchanged: z.array(z.string()),
});
export const putHosts = endpoint({
  id: 'putHosts',
  door: 'registry',
  method: 'PUT',
  path: '/hosts/{artifact_id}',
  caller: 'operator',
  scope: 'nodes',
  tag,
  summary: 'Make these nodes, and no others, run the artifact: all or nothing in one transaction',
  params: z.object({ artifact_id: ById.shape.id }),
  body: HostsOf,
  response: HostsAnswer,
});

/** The CLI's door: by name, with selectors, one transaction. */
export const AssignRequest = z.strictObject({
  /** `name`, `name@version` or an id; without a version the newest by semver. */
  artifact: z.string().check(z.minLength(1), z.maxLength(192)),
  targets: z.array(z.string().check(z.minLength(1), z.maxLength(1024))).check(z.minLength(1), z.maxLength(1000)),
  constants: z.optional(Settings),
  dry_run: z._default(z.boolean(), false),
});
export type AssignRequest = z.infer<typeof AssignRequest>;
export const AssignAnswer = z.object({
  artifact: z.nullable(Artifact),
  assignments: z.array(
    z.object({ ...Assignment.shape, previous_version: z.nullable(z.string()), changed: z.boolean() }),
  ),
});
export type AssignAnswer = z.infer<typeof AssignAnswer>;
export const assignMany = endpoint({
  id: 'assignMany',
  door: 'api',
  method: 'POST',
  path: '/api/v1/assignments',
  caller: 'operator',
  scope: 'nodes',
  tag,
  summary: 'Assign an artifact to nodes by names and selectors',
  body: AssignRequest,
  response: AssignAnswer,
});
export const UnassignRequest = z.strictObject({
  /** `name` takes off whatever version is there. */
  artifact: AssignRequest.shape.artifact,
  targets: AssignRequest.shape.targets,
  dry_run: AssignRequest.shape.dry_run,
});
export const unassignMany = endpoint({
  id: 'unassignMany',
  door: 'api',
  method: 'POST',
  path: '/api/v1/unassignments',
  caller: 'operator',
  scope: 'nodes',
  tag,
  summary: 'Take an artifact off nodes by names and selectors',
  body: UnassignRequest,
  response: AssignAnswer,
});

export const postStatus = endpoint({
  id: 'postArtifactStatus',
  door: 'registry',
  method: 'POST',
  path: '/artifacts/{id}/status',
  caller: 'node',
  channel: 'artifacts',
  tag,
  summary: 'What became of an assignment on this node; a report of an older generation changes nothing',
  params: ById,
  body: StatusReport,
  response: z.object({ stored: z.boolean() }),
});
/** One node's view: what is wished, and what it last said. */
export const NodeArtifact = z.object({
  node: z.string(),
  node_uid: z.uuid(),
  online: z.boolean(),
  name: ArtifactName,
  /** Wished; null once unassigned. */
  version: z.nullable(ArtifactVersion),
  generation: z.int(),
  /** `pending` until the node has reported this generation. */
  state: ArtifactState,
  constants: Settings,
  report: z.nullable(StatusReport),
  reported_at: z.nullable(z.string()),
});
export type NodeArtifact = z.infer<typeof NodeArtifact>;
const StatusPage = z.object({ items: z.array(NodeArtifact), next_cursor: NextCursor });
export const artifactStatus = endpoint({
  id: 'artifactStatus',
  door: 'registry',
  method: 'GET',
  path: '/artifacts/{id}/status',
  caller: 'viewer',
  scope: 'nodes',
  tag,
  summary: "An artifact's state on each node that it is assigned to, side by side",
  params: ById,
  query: z.object({ ...Page }),
  response: StatusPage,
});
export const StatusQuery = z.object({
  name: z.optional(ArtifactName),
  node: z.optional(HostId),
  state: z.optional(ArtifactState),
  ...Page,
});
export const allStatus = endpoint({
  id: 'allArtifactStatus',
  door: 'api',
  method: 'GET',
  path: '/api/v1/artifact-status',
  caller: 'viewer',
  scope: 'nodes',
  tag,
  summary: 'Every assignment and its state, by artifact and node',
  query: StatusQuery,
  response: StatusPage,
});

export const putKernelReport = endpoint({
  id: 'putKernelReport',
  door: 'registry',
  method: 'PUT',
  path: '/v1/kernel-report',
  caller: 'node',
  channel: 'artifacts',
  tag,
  summary: "Which program and attach kinds work on this node's kernel",
  body: KernelReport,
  response: z.object({ stored: z.boolean() }),
});
export const showKernelReport = endpoint({
  id: 'showKernelReport',
  door: 'api',
  method: 'GET',
  path: '/api/v1/agents/{id}/kernel',
  caller: 'viewer',
  scope: 'nodes',
  tag,
  summary: "A node's kernel report; null until it has sent one",
  params: ById,
  response: z.object({ kernel: z.nullable(KernelReport), reported_at: z.nullable(z.string()) }),
});
