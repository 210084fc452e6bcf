import { closeSync, constants, fstatSync, openSync, readFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { AegisError } from '@aegis/protocol/errors';
import { makeFolders } from './folders.ts';
import { replaceFile } from './new-file.ts';

/** Contexts: named servers with their tokens, in `~/.config/aegis/contexts.toml`, mode 0600.
 *  A file that others may read is refused rather than used, as ssh does with keys. */

export interface Context {
  server: string;
  token?: string;
  /** Path of a PEM file. */
  tls_ca?: string;
  /** Hex SHA-256 of the server's certificate or of its key. */
  tls_fingerprint?: string;
  /** Path of the operator's secret key. */
  key?: string;
}
export interface Contexts {
  current: string | null;
  contexts: Record<string, Context>;
}

type Env = Readonly<Record<string, string | undefined>>;

export const contextsPath = (env: Env): string | null => {
  const base = env.XDG_CONFIG_HOME || (env.HOME && `${env.HOME}/.config`);
  return base?.startsWith('/') ? `${base}/aegis/contexts.toml` : null;
};

const invalid = (path: string, what: string): AegisError => new AegisError('config.invalid', `${path} ${what}`);

const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;
export const checkedContextName = (name: string): string => {
  if (NAME.test(name)) return name;
  throw new AegisError('cli.usage', `'${name}' is not a context name: use 1–64 of A-Z a-z 0-9 . _ -`);
};

/** @throws AegisError config.invalid when the file is readable by others or is not what it should be */
export const readContexts = async (env: Env): Promise<Contexts> => {
  const path = contextsPath(env);
  const text = path === null ? null : readPrivately(path);
  if (path === null || text === null) return { current: null, contexts: {} };
  const { parse } = await import('smol-toml');
  let file: Record<string, unknown>;
  try {
    file = parse(text);
  } catch {
    // The parser's message would quote the line, which may hold a token.
    throw invalid(path, "is not valid TOML. Correct it, or remove it and run 'aegis context set' again.");
  }
  const contexts: Record<string, Context> = {};
  for (const [name, entry] of Object.entries(isRecord(file.contexts) ? file.contexts : {})) {
    if (!isRecord(entry) || typeof entry.server !== 'string')
      throw invalid(path, `has no 'server' for the context '${name}'.`);
    contexts[name] = {
      server: entry.server,
      ...(typeof entry.token === 'string' ? { token: entry.token } : {}),
      ...(typeof entry.tls_ca === 'string' ? { tls_ca: entry.tls_ca } : {}),
      ...(typeof entry.tls_fingerprint === 'string' ? { tls_fingerprint: entry.tls_fingerprint } : {}),
      ...(typeof entry.key === 'string' ? { key: entry.key } : {}),
    };
  }
  return { current: typeof file.current === 'string' ? file.current : null, contexts };
};

const isRecord = (value: unknown): value is Record<string, unknown> => typeof value === 'object' && value !== null;

const readPrivately = (path: string): string | null => {
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDONLY);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT' || (error as NodeJS.ErrnoException).code === 'ENOTDIR')
      return null;
    throw invalid(path, `cannot be read (${(error as NodeJS.ErrnoException).code ?? 'unknown reason'}).`);
  }
  try {
    if ((fstatSync(fd).mode & 0o077) !== 0)
      throw invalid(path, `can be read by others, and it holds tokens. Run: chmod 600 ${path}`);
    return readFileSync(fd, 'utf8');
  } finally {
    closeSync(fd);
  }
};

export const writeContexts = async (env: Env, contexts: Contexts): Promise<string> => {
  const path = contextsPath(env);
  if (path === null)
    throw new AegisError('config.invalid', 'There is no HOME to keep contexts in. Set HOME or XDG_CONFIG_HOME.');
  const { stringify } = await import('smol-toml');
  const text = stringify({
    ...(contexts.current === null ? {} : { current: contexts.current }),
    contexts: contexts.contexts,
  });
  const base = dirname(dirname(path));
  try {
    makeFolders(base, 'aegis');
  } catch (error) {
    const reason = (error as NodeJS.ErrnoException).code ?? 'unknown reason';
    throw invalid(base, `cannot be made (${reason}). Set HOME or XDG_CONFIG_HOME to a folder of yours.`);
  }
  replaceFile(path, text, 0o600);
  return path;
};
