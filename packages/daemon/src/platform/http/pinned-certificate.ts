import { X509Certificate } from 'node:crypto';
import type { ProxySettings } from '@aegis/protocol/channel/proxy';
import { connectSecurely, OTHER_CERTIFICATE } from '@aegis/protocol/channel/secure-connect';
import { AegisError } from '@aegis/protocol/errors';

/** Shakes hands with the server, says nothing, and returns its certificate (PEM) when that is the one that was pinned.
 *  @throws AegisError access.untrusted when it is another, cli.unreachable when there is no server */
export const fetchPinnedCertificate = async (
  server: URL,
  fingerprint: string,
  { proxy = {}, client }: { proxy?: ProxySettings; client?: { cert: string; key: string } | undefined } = {},
): Promise<string> => {
  const host = server.hostname.replace(/^\[|\]$/g, '');
  try {
    const socket = await connectSecurely(host, Number(server.port || 443), {
      trust: { pinned: { fingerprint }, client },
      proxy,
    });
    const { raw } = socket.getPeerCertificate();
    socket.destroy();
    return new X509Certificate(raw).toString();
  } catch (cause) {
    const error = cause instanceof Error ? cause : new Error(String(cause));
    if ('code' in error && error.code === OTHER_CERTIFICATE)
      throw new AegisError(
        'access.untrusted',
        `${server.origin} shows another TLS certificate than the join token names: make a new join token, or find out who answers there.`,
      );
    throw new AegisError(
      'cli.unreachable',
      `No TLS server answers at ${server.origin} (${error.message}): check the address.`,
      { cause },
    );
  }
};
