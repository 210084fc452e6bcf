import { createServer } from 'node:http';
import { type AddressInfo, connect, type Socket } from 'node:net';

/** A small proxy on loopback: CONNECT alone, for one user, and names that it alone knows lead to loopback. */
export interface ConnectProxy extends AsyncDisposable {
  readonly url: string;
  /** What was asked for, in order, with what became of it. */
  readonly asked: string[];
}

const CREDENTIALS = Buffer.from('node:pass word').toString('base64');

export const startConnectProxy = async (): Promise<ConnectProxy> => {
  const asked: string[] = [];
  const open = new Set<Socket>();
  const server = createServer((request, answer) => {
    asked.push(`${request.method} ${request.url}`);
    answer.writeHead(405).end();
  });
  server.on('connect', (request, socket: Socket) => {
    const target = request.url ?? '';
    const known = request.headers['proxy-authorization'] === `Basic ${CREDENTIALS}`;
    asked.push(`CONNECT ${target} ${known ? 200 : 407}`);
    if (!known) {
      socket.end('HTTP/1.1 407 Proxy Authentication Required\r\n\r\n');
      return;
    }
    const beyond = connect(Number(target.split(':').at(-1)), '127.0.0.1', () => {
      socket.write('HTTP/1.1 200 Connection established\r\n\r\n');
      beyond.pipe(socket).pipe(beyond);
    });
    for (const [one, other] of [
      [beyond, socket],
      [socket, beyond],
    ] as const) {
      open.add(one);
      one.on('error', () => other.destroy());
      one.on('close', () => open.delete(one));
    }
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  return {
    url: `http://node:pass%20word@127.0.0.1:${port}`,
    asked,
    [Symbol.asyncDispose]: async () => {
      for (const socket of open) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
};
