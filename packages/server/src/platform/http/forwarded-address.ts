import type { IncomingMessage } from 'node:http';
import { BlockList, isIP } from 'node:net';

/** The address of who is behind our own proxies, for requests that Fastify does not see: nearest hop first, the first one that is no proxy of
 *  ours, whatever it says of those before it. As Fastify's `trustProxy` does it.
 *  @param trusted addresses and networks (CIDR) */
export const forwardedAddress = (trusted: readonly string[]): ((request: IncomingMessage) => string) => {
  const proxies = new BlockList();
  for (const entry of trusted) {
    const [address = '', prefix] = entry.split('/');
    const family = isIP(address) === 6 ? 'ipv6' : 'ipv4';
    if (prefix === undefined) proxies.addAddress(address, family);
    else proxies.addSubnet(address, Number(prefix), family);
  }
  const isProxy = (address: string): boolean => {
    const family = isIP(address);
    return family !== 0 && proxies.check(address, family === 6 ? 'ipv6' : 'ipv4');
  };
  return ({ socket, headers }) => {
    const nearest = socket.remoteAddress ?? '';
    const said = String(headers['x-forwarded-for'] ?? '')
      .split(',')
      .map((one) => one.trim())
      .filter((one) => one !== '')
      .reverse();
    let address = nearest;
    for (const one of said) {
      if (!isProxy(address)) break;
      address = one;
    }
    return address;
  };
};
