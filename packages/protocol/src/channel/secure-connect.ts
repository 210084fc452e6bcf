import { createHash, X509Certificate } from 'node:crypto';
import type { Agent, AgentOptions } from 'node:https';
import { isIP } from 'node:net';
import type { TLSSocket } from 'node:tls';
import { type ProxySettings, proxyFor, throughProxy } from './proxy.ts';

/** TLS to the server, for the node and the command line: through a proxy where one is set, and to whom is trusted alone. Whoever holds the
 *  socket holds one whose other end has been checked; before that nothing is sent. */
export interface TlsTrust {
  /** PEM of authorities instead of the system's. */
  ca?: string | readonly string[] | undefined;
  /** The server that is meant, whoever vouches for it and whatever names it has. With `ca`: that one, or one that the authorities vouch for. */
  pinned?: Pin | undefined;
  /** What this side shows when it is asked (PEM). */
  client?: { cert: string; key: string } | undefined;
}
export interface Pin {
  /** Hex SHA-256 of the certificate's DER, or of its public key's (SPKI). */
  fingerprint: string;
  /** PEM of the certificate once it has been met: from then on every certificate of the same key is the one. */
  certificate?: string | undefined;
}
export interface SecureConnectOptions {
  trust: TlsTrust;
  proxy: ProxySettings;
}

const CONNECT_MS = 15_000;

/** @throws Error with a `code` */
export const connectSecurely = async (
  host: string,
  port: number,
  { trust, proxy }: SecureConnectOptions,
  timeoutMs = CONNECT_MS,
): Promise<TLSSocket> => {
  const signal = AbortSignal.timeout(timeoutMs);
  const way = proxyFor(host, port, proxy);
  const beneath = way && (await throughProxy(way, host, port, signal));
  const { connect } = process.getBuiltinModule('node:tls'); // loaded when it is needed: it costs 5 MB
  return await new Promise((resolve, reject) => {
    const socket = connect({
      ...(beneath ? { socket: beneath } : { host, port }),
      ...(isIP(host) === 0 ? { servername: host } : {}),
      host,
      ...(trust.ca === undefined ? {} : { ca: [trust.ca].flat() }),
      ...trust.client,
      minVersion: 'TLSv1.2',
      ALPNProtocols: ['http/1.1'],
      rejectUnauthorized: trust.pinned === undefined, // with a pin it is decided below, before anybody gets the socket
    });
    const late = (): void =>
      void socket.destroy(Object.assign(new Error('no TLS connection in time'), { code: 'ETIMEDOUT' }));
    signal.addEventListener('abort', late, { once: true });
    const failed = (error: Error): void => {
      signal.removeEventListener('abort', late);
      reject(error);
    };
    socket.once('error', failed);
    const broke = (): void => failed(Object.assign(new Error('the connection broke'), { code: 'ECONNRESET' }));
    socket.once('close', broke);
    socket.once('secureConnect', () => {
      const wrong = trust.pinned ? refusalOf(socket, trust.pinned, trust.ca !== undefined) : null;
      if (wrong) return void socket.destroy(wrong);
      signal.removeEventListener('abort', late);
      socket.removeListener('error', failed);
      socket.removeListener('close', broke);
      resolve(socket);
    });
  });
};

const refusalOf = (socket: TLSSocket, pin: Pin, hasAuthorities: boolean): Error | null => {
  if (hasAuthorities && socket.authorized) return null;
  let shown: X509Certificate;
  try {
    shown = new X509Certificate(socket.getPeerCertificate().raw);
    if (!isPinned(shown, pin))
      return Object.assign(new Error("the server's TLS certificate is not the pinned one"), {
        code: OTHER_CERTIFICATE,
      });
  } catch (cause) {
    return cause instanceof Error ? cause : new Error(String(cause)); // what nobody can read is not the one
  }
  if (shown.validToDate.getTime() > Date.now() && shown.validFromDate.getTime() <= Date.now()) return null;
  return Object.assign(
    new Error(`the server's TLS certificate is good from ${shown.validFrom} to ${shown.validTo}, not now`),
    {
      code: 'CERT_HAS_EXPIRED',
    },
  );
};
export const OTHER_CERTIFICATE = 'AEGIS_OTHER_CERTIFICATE';

const isPinned = (shown: X509Certificate, { fingerprint, certificate }: Pin): boolean => {
  const key = spkiOf(shown);
  return (
    sha256(shown.raw) === fingerprint ||
    sha256(key) === fingerprint ||
    (certificate !== undefined && spkiOf(new X509Certificate(certificate)).equals(key))
  );
};
const spkiOf = (certificate: X509Certificate): Buffer => certificate.publicKey.export({ type: 'spki', format: 'der' });
const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

/** An agent for node:https whose connections are made so. Its sockets are ready when a request gets them. */
export const secureAgent = (options: AgentOptions, secure: SecureConnectOptions): Agent => {
  const agent = new (process.getBuiltinModule('node:https').Agent)(options);
  agent.createConnection = ({ host, port }, callback) => {
    connectSecurely(host ?? 'localhost', Number(port), secure).then(
      (socket) => {
        if (options.timeout !== undefined) socket.setTimeout(options.timeout);
        callback?.(null, socket);
      },
      (error: Error) => (callback as ((error: Error) => void) | undefined)?.(error),
    );
    return undefined;
  };
  return agent;
};
