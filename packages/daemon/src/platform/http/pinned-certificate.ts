import { createHash } from 'node:crypto';
import { AegisError } from '@aegis/protocol/errors';

const TIMEOUT_MS = 10_000;

/** Shakes hands with the server, says nothing, and returns its certificate (PEM) when that is the one that was pinned.
 *  @throws AegisError access.untrusted when it is another, cli.unreachable when there is no server */
export const fetchPinnedCertificate = (server: URL, fingerprint: string): Promise<string> =>
  new Promise((resolve, reject) => {
    const host = server.hostname.replace(/^\[|\]$/g, '');
    // Not authorised by any authority, on purpose: nothing is sent or read before the hash below has been compared.
    const socket = process
      .getBuiltinModule('node:tls')
      .connect({ host, port: Number(server.port || 443), rejectUnauthorized: false, timeout: TIMEOUT_MS });
    const fail = (cause?: unknown): void => {
      socket.destroy();
      reject(
        new AegisError('cli.unreachable', `No TLS server answers at ${server.origin}: check the address.`, { cause }),
      );
    };
    socket.once('timeout', fail);
    socket.once('error', fail);
    socket.once('secureConnect', () => {
      const { raw } = socket.getPeerCertificate();
      socket.destroy();
      if (createHash('sha256').update(raw).digest('hex') !== fingerprint)
        return reject(
          new AegisError(
            'access.untrusted',
            `${server.origin} shows another TLS certificate than the join token names: make a new join token, or find out who answers there.`,
          ),
        );
      const lines = raw.toString('base64').match(/.{1,64}/g) ?? [];
      resolve(`-----BEGIN CERTIFICATE-----\n${lines.join('\n')}\n-----END CERTIFICATE-----\n`);
    });
  });
