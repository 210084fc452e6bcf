import { type AddressInfo, connect, createServer, type Socket } from 'node:net';

/** Between a node and its server, byte for byte: connections that can be cut, and a channel that can be kept from coming about. */
export interface TcpRelay extends AsyncDisposable {
  readonly url: string;
  /** Cuts what is up; what comes is cut at once until `mend`. */
  cut(): void;
  mend(): void;
  /** Cuts channels, and lets none come about: HTTP goes on. */
  blockChannels(blocked: boolean): void;
  /** Nothing passes any more on what is up, and nobody is told: a half-open connection. */
  freeze(): void;
  /** Channels that are up. */
  channels(): number;
}

const CHANNEL = 'GET /ws/agent';

export const startTcpRelay = async (target: string): Promise<TcpRelay> => {
  const { hostname, port } = new URL(target);
  const pairs = new Map<Socket, Socket>();
  const channels = new Set<Socket>();
  let cut = false;
  let blocked = false;
  const end = (from: Socket): void => {
    pairs.get(from)?.destroy();
    from.destroy();
    pairs.delete(from);
    channels.delete(from);
  };
  const server = createServer((from) => {
    from.on('error', () => end(from));
    if (cut) return void from.destroy();
    const to = connect(Number(port), hostname);
    pairs.set(from, to);
    to.on('error', () => end(from));
    from.on('close', () => end(from));
    to.on('close', () => end(from));
    from.on('data', (chunk: Buffer) => {
      if (chunk.subarray(0, CHANNEL.length).toString('latin1') === CHANNEL) {
        if (blocked) return end(from);
        channels.add(from);
      }
      if (!to.write(chunk)) from.pause();
    });
    to.on('drain', () => from.resume());
    to.pipe(from);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port: own } = server.address() as AddressInfo;
  return {
    url: `http://127.0.0.1:${own}`,
    cut: () => {
      cut = true;
      for (const from of [...pairs.keys()]) end(from);
    },
    mend: () => {
      cut = false;
    },
    blockChannels: (wanted) => {
      blocked = wanted;
      if (wanted) for (const from of [...channels]) end(from);
    },
    freeze: () => {
      for (const [from, to] of pairs) {
        from.pause();
        to.unpipe(from);
        to.pause();
      }
    },
    channels: () => channels.size,
    [Symbol.asyncDispose]: async () => {
      for (const from of [...pairs.keys()]) end(from);
      await new Promise((resolve) => server.close(resolve));
    },
  };
};
