import type { ConstantType, ConstantValue } from '@aegis/protocol/artifacts/constants';
import type { Feature, MapRule, Program } from '@aegis/protocol/artifacts/manifest';
import type { AttachmentReport, DriftReport, MapReport } from '@aegis/protocol/artifacts/status';
import type { ErrorCode } from '@aegis/protocol/errors';

/** What the reconcile loop hands to the kernel engine, and what it gets back. */

/** One verified version of an artifact with its settings: everything that the kernel is to hold for it. */
export interface Deployment {
  name: string;
  version: string;
  generation: number;
  /** 16 hexadecimal digits: the bundle's digest, constants, programs and maps. Equal revisions want the same of the kernel. */
  revision: string;
  programs: readonly Program[];
  constants: readonly DeployedConstant[];
  maps: readonly MapRule[];
  features: readonly Feature[];
  /** The objects, read again and verified again: asked for only when something must be loaded.
   *  @throws AegisError what the verification says */
  bytes(): Promise<{ objects: ReadonlyMap<string, Buffer>; kernelBtf?: Buffer }>;
}

export interface DeployedConstant {
  name: string;
  object?: string | undefined;
  type: ConstantType;
  value: ConstantValue;
}

export interface EngineState {
  attachments: AttachmentReport[];
  maps: MapReport[];
  /** What was found otherwise than it was left, since the last look. */
  drift: DriftReport[];
  /** An interface is not there yet: asked again at each tick. */
  waiting: boolean;
}

export interface KernelEngine {
  /** Makes the kernel equal to the deployment: nothing when it is already. Loads everything first, then links.
   *  @throws DeployError having put back what was */
  apply(deployment: Deployment): Promise<EngineState>;
  /** Takes everything of this artifact off. Nothing there is fine. */
  remove(name: string): Promise<void>;
  /** Removes pins of ours that belong to none of these artifacts; answers what was removed. */
  sweep(names: readonly string[]): Promise<string[]>;
  close(): void;
}

/** Why a deployment failed, as it is reported. */
export class DeployError extends Error {
  override readonly name = 'DeployError';
  readonly code: ErrorCode;
  readonly verifierLog: string | undefined;
  constructor(code: ErrorCode, message: string, more: { verifierLog?: string | undefined; cause?: unknown } = {}) {
    super(message, more.cause === undefined ? undefined : { cause: more.cause });
    this.code = code;
    this.verifierLog = more.verifierLog;
  }
}
