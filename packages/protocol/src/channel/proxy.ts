import { request as httpRequest } from 'node:http';
import { BlockList, isIP, type Socket } from 'node:net';

/** Ways out through a proxy, as HTTPS_PROXY and NO_PROXY say it. Only https goes through one: what is not encrypted stays off it, and so does
 *  what is meant for this machine. */
export interface ProxySettings {
  /** http:// or https://, with user and password where it asks for them. */
  httpsProxy?: string | undefined;
  /** Names (with all below them), addresses and networks that are reached without it, separated by commas or spaces; `*` is all. */
  noProxy?: string | undefined;
}

export const proxySettingsOf = (env: Readonly<Record<string, string | undefined>>): ProxySettings => ({
  httpsProxy: env.HTTPS_PROXY || env.https_proxy || undefined,
  noProxy: env.NO_PROXY || env.no_proxy || undefined,
});

export const isProxyUrl = (text: string): boolean => {
  if (!URL.canParse(text)) return false;
  const { protocol, hostname, pathname, search } = new URL(text);
  return /^https?:$/.test(protocol) && hostname !== '' && (pathname === '' || pathname === '/') && search === '';
};

/** @returns the proxy for a TLS connection to there, or null: straight. @throws Error when the setting is no address of a proxy; it may hold
 *  a password and is not repeated */
export const proxyFor = (host: string, port: number, { httpsProxy, noProxy }: ProxySettings): URL | null => {
  if (!httpsProxy || isLoopback(host) || isExempt(host.toLowerCase(), port, noProxy)) return null;
  if (!isProxyUrl(httpsProxy)) throw new Error('HTTPS_PROXY is not an http:// or https:// address of a proxy');
  return new URL(httpsProxy);
};

const isLoopback = (host: string): boolean =>
  host === 'localhost' || host === '::1' || (isIP(host) === 4 && host.startsWith('127.'));

const isExempt = (host: string, port: number, noProxy = ''): boolean =>
  noProxy
    .toLowerCase()
    .split(/[\s,]+/)
    .filter((entry) => entry !== '')
    .some((entry) => entry === '*' || matches(entry, host, port));

const matches = (entry: string, host: string, port: number): boolean => {
  const network = /^\[?([0-9a-f:.]+)\]?\/(\d{1,3})$/.exec(entry);
  if (network) return isWithin(host, network[1] ?? '', Number(network[2]));
  if (isIP(entry) !== 0) return entry === host;
  const { name = '', wantedPort } =
    /^(?:\*?\.)?\[?(?<name>[^\]]*?)\]?(?::(?<wantedPort>\d+))?$/.exec(entry)?.groups ?? {};
  if (name === '' || (wantedPort !== undefined && Number(wantedPort) !== port)) return false;
  return host === name || (isIP(host) === 0 && host.endsWith(`.${name}`));
};

const isWithin = (host: string, address: string, prefix: number): boolean => {
  const family = isIP(address);
  if (family === 0 || isIP(host) !== family || prefix > (family === 4 ? 32 : 128)) return false;
  const list = new BlockList();
  const kind = family === 4 ? 'ipv4' : 'ipv6';
  list.addSubnet(address, prefix, kind);
  return list.check(host, kind);
};

/** A connection through the proxy to there, on which nothing has been said yet. Node's own agent has this only as an experiment that also
 *  sends plain http through it. */
export const throughProxy = (proxy: URL, host: string, port: number, signal: AbortSignal): Promise<Socket> =>
  new Promise((resolve, reject) => {
    const target = `${isIP(host) === 6 ? `[${host}]` : host}:${port}`;
    const { username, password } = proxy;
    const credentials = Buffer.from(`${decodeURIComponent(username)}:${decodeURIComponent(password)}`).toString(
      'base64',
    );
    const secure = proxy.protocol === 'https:';
    const ask = secure ? process.getBuiltinModule('node:https').request : httpRequest;
    const asking = ask({
      host: proxy.hostname.replace(/^\[|\]$/g, ''),
      port: Number(proxy.port || (secure ? 443 : 80)),
      method: 'CONNECT',
      path: target,
      agent: false,
      signal,
      headers: { host: target, ...(username ? { 'proxy-authorization': `Basic ${credentials}` } : {}) },
    });
    const failed = (why: string, cause?: unknown): Error =>
      Object.assign(new Error(`the proxy ${proxy.host} ${why}`, { cause }), { code: 'AEGIS_PROXY' });
    asking.once('connect', ({ statusCode = 0 }, socket, head) => {
      if (statusCode >= 200 && statusCode <= 299 && head.length === 0) return resolve(socket);
      socket.destroy();
      reject(
        failed(
          statusCode === 407 ? 'wants a user and a password (407)' : `refused the way to ${target} (${statusCode})`,
        ),
      );
    });
    asking.once('response', ({ statusCode }) => {
      asking.destroy();
      reject(failed(`refused the way to ${target} (${statusCode})`));
    });
    asking.once('error', (cause: NodeJS.ErrnoException) =>
      reject(failed(`is not reached (${cause.code ?? cause.message})`, cause)),
    );
    asking.end();
  });
