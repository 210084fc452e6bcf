import type { Door } from '@aegis/protocol/endpoint';
import { AegisError } from '@aegis/protocol/errors';
import type { ListenAt } from './platform/http/listener.ts';

/** `--listen ADDR=DOOR[,DOOR]`: an address and what is served there; without doors, every one. */

const DOORS: readonly (Door | 'all')[] = ['actions', 'registry', 'gateway', 'api', 'agent-svc', 'backup', 'all'];
const TEXT = /^(?<host>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+):(?<port>\d{1,5})(?:=(?<doors>[a-z,-]+))?$/;

/** @throws AegisError config.invalid */
export const parseListen = (text: string): ListenAt => {
  const { host = '', port = '', doors = 'all' } = TEXT.exec(text)?.groups ?? {};
  const known = doors.split(',').map((name) => DOORS.find((door) => door === name));
  if (host === '' || Number(port) > 65_535 || known.includes(undefined))
    throw new AegisError(
      'config.invalid',
      `listen: '${text.slice(0, 200)}' is not allowed. Allowed: HOST:PORT=DOOR[,DOOR] with the doors ${DOORS.join(', ')}.`,
    );
  return {
    host: host.replace(/^\[|\]$/g, ''),
    port: Number(port),
    doors: known.filter((door) => door !== undefined),
  };
};

export const isLoopbackHost = (host: string): boolean =>
  host === 'localhost' || host === '::1' || /^127\.\d{1,3}\.\d{1,3}\.\d{1,3}$/.test(host);
