import { Socket } from 'node:net';
import pg from 'pg';
import type { OpenLink } from '../bus-shared.ts';

/** Messages between server processes by PostgreSQL's LISTEN and NOTIFY, on a connection of its own. Notifications reach who listens in
 *  the same database at that moment; each is less than 8000 bytes. */

const CHANNEL = 'aegis_bus';
const CLOSE_MS = 1000;
/** Nothing is stored by a notification that a crash could take: no commit of one waits for the disk. */
const SETTINGS = '-c synchronous_commit=off -c statement_timeout=10s';

export const postgresLink =
  (url: string): OpenLink =>
  async ({ heard, lost }) => {
    const socket = new Socket();
    const client = new pg.Client({
      connectionString: url,
      application_name: 'aegis-bus',
      options: SETTINGS,
      connectionTimeoutMillis: 5000,
      query_timeout: 10_000,
      keepAlive: true,
      keepAliveInitialDelayMillis: 10_000,
      stream: () => socket, // to be ended also when the other side does not answer
    });
    const close = async (): Promise<void> => {
      const ended = client.end().catch(() => undefined); // broken already
      const timer = setTimeout(() => socket.destroy(), CLOSE_MS);
      await Promise.race([ended, new Promise((resolve) => socket.once('close', resolve))]);
      clearTimeout(timer);
      socket.destroy();
    };
    client.on('error', lost);
    client.on('end', () => lost(new Error('PostgreSQL ended the connection')));
    client.on('notification', ({ payload }) => heard(payload ?? ''));
    try {
      await client.connect();
      await client.query(`listen ${CHANNEL}`);
    } catch (error) {
      await close();
      throw error;
    }
    return {
      send: async (messages) => {
        await client.query({
          name: 'notify',
          text: `select pg_notify('${CHANNEL}', message) from unnest($1::text[]) as message`,
          values: [messages],
        });
      },
      close,
    };
  };
