import type { LinkEvents, OpenLink } from './bus-shared.ts';

/** Messages between server processes by Redis' PUBLISH and SUBSCRIBE. Who can use that Redis can wake waiters and learn ids, no more.
 *  The client is loaded at the first use: servers without Redis never pay for it. */

export const redisLink =
  (url: string, channel: string): OpenLink =>
  async ({ heard, lost }: LinkEvents) => {
    const { createClient } = await import('@redis/client');
    const make = () => {
      const client = createClient({
        url,
        disableOfflineQueue: true,
        // Whoever opened the link opens the next one.
        socket: { connectTimeout: 5000, keepAlive: true, keepAliveInitialDelay: 10_000, reconnectStrategy: false },
      });
      client.on('error', lost);
      client.on('end', () => lost(new Error('Redis ended the connection')));
      return client;
    };
    const [hearing, telling] = [make(), make()]; // one that subscribes does nothing else
    const close = async (): Promise<void> => {
      for (const client of [hearing, telling]) if (client.isOpen) client.destroy();
    };
    try {
      await Promise.all([hearing.connect(), telling.connect()]);
      await hearing.subscribe(channel, heard);
    } catch (error) {
      await close();
      throw error;
    }
    return {
      send: async (messages) => {
        await Promise.all(messages.map((message) => telling.publish(channel, message)));
      },
      close,
    };
  };
