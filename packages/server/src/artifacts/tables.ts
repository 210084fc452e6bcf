import type { ArtifactState } from '@aegis/protocol/artifacts/status';

/** Rows of the artifacts domain. Times are milliseconds since 1970, booleans 0 and 1, ids UUIDv7 text. */
export interface ArtifactsTables {
  artifacts: {
    id: string;
    /** Unique together, for ever: a deleted one's row stays, so that its version never names other bytes. */
    name: string;
    version: string;
    description: string;
    type: string;
    architecture: string;
    kernel_version: string;
    /** JSON array, JSON object. */
    tags: string;
    metadata: string;
    /** Of the bundle, hexadecimal: the name of its blob. */
    sha256: string;
    size: number;
    signature: string | null;
    signer_keyid: string | null;
    signer_name: string | null;
    created_at: number;
    created_by: string;
    deleted_at: number | null;
    manifest_bytes: number;
    /** JSON, as the bundle's reader understood it. */
    manifest: string;
  };
  /** Desired state: one row per node and artifact name. It stays after an unassignment, so that the generation never starts anew. */
  artifacts_assignments: {
    node_uid: string;
    name: string;
    node_name: string;
    generation: number;
    /** 0 for a tombstone, which keeps the id of what was assigned last. */
    present: number;
    artifact_id: string;
    /** JSON object: what the assignment sets, by constantKey, keys in order. */
    constants: string;
    assigned_at: number;
    assigned_by: string;
    /** Of the directive: a fresh one is issued when a node asks a day later. */
    directive_id: string;
    issued_at: number;
    /** 1 for a tombstone whose generation the node has reported as detached. */
    confirmed: number;
  };
  /** What a node last said of an assignment. */
  artifacts_reports: {
    node_uid: string;
    name: string;
    generation: number;
    state: ArtifactState;
    reported_at: number;
    /** Characters of report and log together: what bounds a page. */
    chars: number;
    /** JSON StatusReport without its log. */
    report: string;
    verifier_log: string | null;
  };
  /** One row per node that ever had desired state. Locked before its assignments are changed. */
  artifacts_desired: {
    node_uid: string;
    /** Grows with every change of the node's desired state. */
    revision: number;
    /** Its assignments that are present, and the bytes of their manifests and constants together. */
    present: number;
    bytes: number;
    /** The trust bundle's version that the node was last woken for. */
    trust_version: number;
  };
  artifacts_kernels: {
    node_uid: string;
    /** JSON KernelReport. */
    report: string;
    reported_at: number;
  };
}

export type ArtifactRow = ArtifactsTables['artifacts'];
export type AssignmentRow = ArtifactsTables['artifacts_assignments'];
export type DesiredRow = ArtifactsTables['artifacts_desired'];
