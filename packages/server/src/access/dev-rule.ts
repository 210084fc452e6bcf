import type { RequestFacts } from '../platform/http/mount.ts';

/** Under `--dev` a request without credentials counts as admin, when nothing suggests that it came from elsewhere than a
 *  program on this machine: not from a browser page of another origin, not through a proxy, not by a rebound DNS name. */
export const devRuleAllows = ({ method, headers, rawHeaders, remoteAddress }: RequestFacts): boolean =>
  isLoopbackAddress(remoteAddress) &&
  hasLoopbackHost(headers.host, rawHeaders) &&
  headers.origin === undefined &&
  [undefined, 'none', 'same-origin'].includes(oneOf(headers['sec-fetch-site'])) &&
  !Object.keys(headers).some(tellsOfAProxy) &&
  !Object.keys(headers).some((name) => CREDENTIALS.has(name)) &&
  (hasNoBody(method, headers) || /^application\/json\s*(;|$)/i.test(headers['content-type'] ?? ''));

const isLoopbackAddress = (address: string): boolean =>
  address === '::1' || /^(::ffff:)?127\.\d{1,3}\.\d{1,3}\.\d{1,3}$/i.test(address);

const hasLoopbackHost = (host: string | undefined, rawHeaders: readonly string[]): boolean => {
  const sent = rawHeaders.filter((name, at) => at % 2 === 0 && name.toLowerCase() === 'host').length;
  return sent === 1 && /^(localhost|127\.\d{1,3}\.\d{1,3}\.\d{1,3}|\[::1\])(:\d{1,5})?$/i.test(host ?? '');
};

const FORWARDING = /^(x-forwarded($|-)|x-original-|x-client-ip$|x-cluster-client-ip$|x-real-ip$|x-envoy-|cf-)/;
const tellsOfAProxy = (name: string): boolean =>
  ['forwarded', 'via', 'true-client-ip', 'fastly-client-ip'].includes(name) || FORWARDING.test(name);

const CREDENTIALS = new Set(['authorization', 'proxy-authorization', 'x-agent-api-key']);

const hasNoBody = (method: string, headers: RequestFacts['headers']): boolean =>
  headers['transfer-encoding'] === undefined &&
  [undefined, '0'].includes(headers['content-length']) &&
  // A form post without fields has no body either, yet its type says who sent it.
  (method === 'GET' ||
    headers['content-type'] === undefined ||
    /^application\/json\s*(;|$)/i.test(headers['content-type']));

const oneOf = (value: string | string[] | undefined): string | undefined =>
  Array.isArray(value) ? value.join(',') : value?.toLowerCase();
