import { AegisError } from '@aegis/protocol/errors';

const codeOf = (error: unknown): string => (error instanceof Error && 'code' in error ? String(error.code) : '');
export const isNotFound = (error: unknown): boolean => codeOf(error) === 'bpf.not_found';
export const isNoSuchTarget = (error: unknown): boolean => codeOf(error) === 'bpf.no_such_target';

export const isNotPermitted = (error: unknown): boolean => codeOf(error) === 'bpf.not_permitted';

/** A refusal of the loader, as this program shows them. */
export const loaderRefusal = (error: unknown): unknown => {
  const code = codeOf(error);
  if (!code.startsWith('bpf.') || !(error instanceof Error)) return error;
  const ours = code === 'bpf.unsupported' ? 'artifacts.unsupported' : 'artifacts.not_here';
  return new AegisError(ours, error.message, { cause: error, details: { loader_code: code } });
};
