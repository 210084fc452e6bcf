import type { IncomingMessage } from 'node:http';
import type { Server as HttpsServer } from 'node:https';
import type { AddressInfo, Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import type { Door } from '@aegis/protocol/endpoint';
import { AegisError, errorBody, httpStatusOf } from '@aegis/protocol/errors';
import Fastify, { type FastifyInstance, type FastifyReply } from 'fastify';
import { endSocket, LINGER_MS } from './end-socket.ts';
import { asShown } from './failures.ts';
import { forwardedAddress } from './forwarded-address.ts';
import { BODY_LIMIT_BYTES } from './json-body.ts';
import { type MountOptions, mountRoutes, servedAt } from './mount.ts';
import { openApiRoute } from './openapi.ts';
import type { Route } from './route.ts';
import { secureOptions, type Tls } from './tls.ts';

/** One address and the doors that are served there. */
export interface ListenAt {
  host: string;
  port: number;
  doors: readonly (Door | 'all')[];
}
/** Who takes over the sockets of requests to leave HTTP at `path`, where `door` is served. */
export interface Upgrades {
  path: string;
  door: Door;
  /** Connections there may be beside those of HTTP. */
  most: number;
  take(request: IncomingMessage, socket: Duplex, head: Buffer, remoteAddress: string): void;
}
export interface Listener {
  doors: ListenAt['doors'];
  url: string;
  /** Takes no new connection, waits for the answers under way at most `graceMs`, then cuts. */
  close(graceMs: number): Promise<void>;
}

// Longer than a long poll's minute and than the idle minute of usual proxies, so that these close first and never race us.
const KEEP_ALIVE_MS = 75_000;
/** For all headers, and for the whole request: 8 MiB in two minutes is 0.6 Mbit/s. */
const HEADERS_MS = 20_000;
const REQUEST_MS = 120_000;
const HEADERS = { maxHeaderSize: 16 * 1024, headersTimeout: HEADERS_MS };
const MAX_CONNECTIONS = 10_000;
/** Connections that the kernel holds for us (it has a bound of its own, net.core.somaxconn): a fleet that comes back at once. Those beyond are cut. */
const BACKLOG = 4096;

export const listen = async (
  at: ListenAt,
  routes: readonly Route[],
  options: Omit<MountOptions, 'tls'> & {
    tls: Tls | undefined;
    newId: () => string;
    /** Addresses (IP or CIDR) of the proxies whose X-Forwarded-For and -Proto are believed. */
    behindProxy: readonly string[];
    upgrades?: Upgrades;
  },
): Promise<Listener> => {
  const { tls } = options;
  const app = fastifyFor(tls, options.behindProxy, options.newId);
  tls?.follow((material) => (app.server as unknown as HttpsServer).setSecureContext(secureOptions(material)));
  const served = servedAt(routes, at.doors);
  const all = [...served, openApiRoute(served.map(({ endpoint }) => endpoint))];
  mountRoutes(app, all, { ...options, tls: options.tls !== undefined });
  const { upgrades } = options;
  const upgrading = upgrades && (at.doors.includes('all') || at.doors.includes(upgrades.door));
  app.server.maxConnections = MAX_CONNECTIONS + (upgrading ? upgrades.most : 0);
  const silent = silentConnections(app.server, options.tls !== undefined);
  if (upgrading) takeUpgrades(app.server, upgrades, options);
  try {
    await app.listen({ host: at.host, port: at.port, backlog: BACKLOG });
  } catch (cause) {
    await app.close();
    const code = cause instanceof Error && 'code' in cause ? String(cause.code) : 'unknown error';
    throw new AegisError(
      'config.invalid',
      `Cannot listen on ${at.host}:${at.port} (${code}). Choose another --listen.`,
      {
        cause,
      },
    );
  }
  const { port, address, family } = app.server.address() as AddressInfo;
  const host = family === 'IPv6' ? `[${address}]` : address;
  return {
    doors: at.doors,
    url: `${options.tls ? 'https' : 'http'}://${host}:${port}`,
    close: async (graceMs) => {
      const cut = setTimeout(() => app.server.closeAllConnections(), graceMs);
      for (const socket of silent) socket.destroy();
      try {
        await app.close();
      } finally {
        clearTimeout(cut);
      }
    },
  };
};

/** Connections that never sent a request. Node counts them as busy: one that a client opened ahead of need would hold up a stop. */
const silentConnections = (server: FastifyInstance['server'], tls: boolean): ReadonlySet<Socket> => {
  const silent = new Set<Socket>();
  server.on(tls ? 'secureConnection' : 'connection', (socket: Socket) => {
    silent.add(socket);
    socket.once('close', () => silent.delete(socket));
  });
  server.on('request', ({ socket }: { socket: Socket }) => silent.delete(socket));
  server.on('upgrade', ({ socket }: { socket: Socket }) => silent.delete(socket));
  return silent;
};

const takeUpgrades = (
  server: FastifyInstance['server'],
  { path, take }: Upgrades,
  { behindProxy, newId }: { behindProxy: readonly string[]; newId: () => string },
): void => {
  const addressOf = forwardedAddress(behindProxy);
  server.on('upgrade', (request: IncomingMessage, socket: Duplex, head: Buffer) => {
    if ((request.url ?? '').split('?', 1)[0] === path) return take(request, socket, head, addressOf(request));
    const error = new AegisError('http.not_found', `Only ${path} leaves HTTP here.`);
    socket.on('error', () => socket.destroy());
    endSocket(socket, plainAnswer('404 Not Found', error, newId()));
  });
};

const fastifyFor = (tls: Tls | undefined, behindProxy: readonly string[], newId: () => string): FastifyInstance =>
  Fastify({
    logger: false,
    ...(tls
      ? {
          https: {
            ...secureOptions(tls.current()),
            requestCert: tls.asksClients,
            rejectUnauthorized: tls.asksClients,
            handshakeTimeout: HEADERS_MS,
            ...HEADERS,
          },
        }
      : { http: HEADERS }),
    bodyLimit: BODY_LIMIT_BYTES,
    keepAliveTimeout: KEEP_ALIVE_MS,
    requestTimeout: REQUEST_MS,
    forceCloseConnections: 'idle',
    return503OnClosing: false, // mount.ts says it in our shape
    requestIdHeader: false, // an id that a caller chose could name another's request in the log
    genReqId: newId,
    // Nearest hop first: the address is that of the first one which is no proxy of ours, whatever it says of those before it.
    trustProxy: behindProxy.length > 0 ? [...behindProxy] : false,
    exposeHeadRoutes: false,
    routerOptions: { maxParamLength: 512, caseSensitive: true },
    frameworkErrors: (error, request, reply) => {
      const shown = asShown(error);
      void (reply as unknown as FastifyReply) // its status type is narrowed to none here
        .code(httpStatusOf(shown.code))
        .header('x-request-id', request.id)
        .header('content-type', 'application/json; charset=utf-8')
        .send(JSON.stringify(errorBody(shown, request.id)));
    },
    clientErrorHandler: (error, socket) => answerUnreadable(error, socket, newId()),
  }) as unknown as FastifyInstance;

/** What is not HTTP, or too much of it, never reaches Fastify: answered in our shape by hand, then the connection ends. */
const answerUnreadable = (error: Error, socket: Socket, requestId: string): void => {
  const code = 'code' in error ? String(error.code) : '';
  if (code === 'ECONNRESET' || !socket.writable) {
    socket.destroy();
    return;
  }
  const [status, sentence] = UNREADABLE[code] ?? ['400 Bad Request', 'The request is not readable as HTTP/1.1.'];
  socket.end(plainAnswer(status, new AegisError('http.malformed', sentence), requestId));
  // Not at once, which could take the answer from who is still sending; and not never: its half stays open for as long as the other side likes.
  setTimeout(() => socket.destroy(), LINGER_MS).unref();
};
const plainAnswer = (status: string, error: AegisError, requestId: string): string => {
  const body = JSON.stringify(errorBody(error, requestId));
  return `HTTP/1.1 ${status}\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: ${Buffer.byteLength(body)}\r\nX-Request-Id: ${requestId}\r\nConnection: close\r\n\r\n${body}`;
};
const UNREADABLE: Readonly<Record<string, readonly [string, string]>> = {
  HPE_HEADER_OVERFLOW: ['431 Request Header Fields Too Large', 'The headers are larger than 16 KiB. Send fewer.'],
  ERR_HTTP_REQUEST_TIMEOUT: ['408 Request Timeout', 'The request did not arrive in time. Send it again.'],
};
