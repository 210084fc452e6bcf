import { LoaderError } from '@aegis/bpf-loader/errors';
import type { LoaderErrorCode } from '@aegis/bpf-loader/types';
import { AegisError, type ErrorCode } from '@aegis/protocol/errors';
import { DeployError } from '../deployment.ts';

/** From what the loader says to what an operator reads: a code of the artifacts domain and a sentence that says what to do. */

const CODES: Readonly<Record<LoaderErrorCode, ErrorCode>> = {
  'bpf.bad_object': 'artifacts.bad_object',
  'bpf.unknown_section': 'artifacts.load_failed',
  'bpf.unknown_program': 'artifacts.load_failed',
  'bpf.unknown_map': 'artifacts.load_failed',
  'bpf.unknown_global': 'artifacts.unknown_constant',
  'bpf.bad_global': 'artifacts.bad_constant',
  'bpf.missing_btf': 'artifacts.missing_feature',
  'bpf.map_mismatch': 'artifacts.load_failed',
  'bpf.map_failed': 'artifacts.load_failed',
  'bpf.verifier_rejected': 'artifacts.load_failed',
  'bpf.not_permitted': 'artifacts.load_failed',
  'bpf.unsupported': 'artifacts.unsupported',
  'bpf.hook_busy': 'artifacts.hook_busy',
  'bpf.no_such_target': 'artifacts.attach_failed',
  'bpf.attach_refused': 'artifacts.attach_failed',
  'bpf.pin_failed': 'artifacts.attach_failed',
  'bpf.not_found': 'artifacts.attach_failed',
  'bpf.invalid': 'artifacts.load_failed',
  'bpf.failed': 'artifacts.load_failed',
};

export const isLoaderError = (error: unknown, ...codes: LoaderErrorCode[]): error is LoaderError =>
  error instanceof LoaderError && (codes.length === 0 || codes.includes(error.code));

/** @param doing what was being done: begins the sentence. */
export const deployError = (error: unknown, doing: string, during: 'load' | 'attach'): DeployError => {
  if (error instanceof DeployError) return error;
  if (error instanceof AegisError) return new DeployError(error.code, error.message, { cause: error });
  if (!isLoaderError(error)) {
    const why = error instanceof Error ? error.message : String(error);
    return new DeployError(
      during === 'load' ? 'artifacts.load_failed' : 'artifacts.attach_failed',
      `${doing}: ${why}. The daemon tries again; its log has more.`,
      { cause: error },
    );
  }
  const general = CODES[error.code];
  const code = during === 'attach' && general === 'artifacts.load_failed' ? 'artifacts.attach_failed' : general;
  const next = NEXT_STEPS[error.code];
  return new DeployError(code, [`${doing}: ${sentence(error)}`, next].filter(Boolean).join(' '), {
    verifierLog: error.log,
    cause: error,
  });
};

const sentence = ({ message, reason }: LoaderError): string => {
  const told = reason && !message.includes(reason) ? `${message.replace(/\.$/, '')}: ${reason}.` : message;
  return /[.!?]$/.test(told) ? told : `${told}.`;
};

const NEXT_STEPS: Partial<Record<LoaderErrorCode, string>> = {
  'bpf.verifier_rejected': "The verifier's whole log is in the status (aegis artifacts status --json).",
  'bpf.map_mismatch': 'Give the map another share name, or take the artifacts that share it off first.',
  'bpf.unknown_program': 'Correct the manifest and publish a new version.',
  'bpf.unknown_map': 'Correct the manifest and publish a new version.',
};

/** A hook that holds one program, and another one is in it. */
export const busyError = (error: LoaderError, hook: string, owner: string | null): DeployError => {
  const id = error.details.programId;
  const name = error.details.name;
  const program = typeof id === 'number' ? `program ${id}${name ? ` (${String(name)})` : ''}` : 'another program';
  return new DeployError(
    'artifacts.hook_busy',
    owner === null
      ? `${hook} holds one program, and ${program}, which is not of Aegis, is there: detach it (bpftool net, ip link), then the daemon tries again.`
      : `${hook} holds one program, and ${program} of artifact '${owner}' is there: unassign '${owner}' from this node first.`,
    { cause: error },
  );
};
