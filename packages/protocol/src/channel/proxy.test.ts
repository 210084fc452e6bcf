import { expect, test } from 'vitest';
import { isProxyUrl, proxyFor, proxySettingsOf } from './proxy.ts';

const PROXY = 'http://proxy.example.net:3128';

test.each<[string, string, number, string | undefined, boolean]>([
  ['nothing is exempt', 'aegis.example.net', 443, undefined, true],
  ['all is', 'aegis.example.net', 443, '*', false],
  ['the name', 'aegis.example.net', 443, 'a.b, AEGIS.example.net', false],
  ['a domain', 'aegis.example.net', 443, 'example.net', false],
  ['a domain with its dot', 'aegis.example.net', 443, '.example.net', false],
  ['a domain with a star', 'aegis.example.net', 443, '*.example.net', false],
  ['the end of another name', 'notexample.net', 443, 'example.net', true],
  ['its port', 'aegis.example.net', 8443, 'example.net:8443', false],
  ['another port', 'aegis.example.net', 443, 'example.net:8443', true],
  ['an address', '10.1.2.3', 443, '10.1.2.3', false],
  ['the end of an address', '110.1.2.3', 443, '10.1.2.3', true],
  ['a network', '10.1.2.3', 443, '192.0.2.0/24 10.0.0.0/8', false],
  ['beside a network', '11.1.2.3', 443, '10.0.0.0/8', true],
  ['a network of IPv6', 'fd00::5', 443, 'fd00::/8', false],
  ['a network that is none', '10.1.2.3', 443, '10.0.0.0/99', true],
  ['this machine', '127.0.0.1', 443, undefined, false],
  ['this machine by name', 'localhost', 443, '', false],
])('%s', (_, host, port, noProxy, through) => {
  expect(proxyFor(host, port, { httpsProxy: PROXY, noProxy })?.href).toBe(through ? `${PROXY}/` : undefined);
});

test('no proxy, and settings that are none', () => {
  expect(proxyFor('aegis.example.net', 443, {})).toBe(null);
  expect(() => proxyFor('aegis.example.net', 443, { httpsProxy: 'socks5://u:hunter2@x' })).toThrow(
    /^HTTPS_PROXY is not an http:\/\/ or https:\/\/ address of a proxy$/,
  );
  expect(['http://p', 'https://u:p@p:1/', 'ftp://p', 'p:3128', 'http://p/x'].map(isProxyUrl)).toEqual([
    true,
    true,
    false,
    false,
    false,
  ]);
  expect(proxySettingsOf({ HTTPS_PROXY: '', https_proxy: PROXY, NO_PROXY: 'a' })).toEqual({
    httpsProxy: PROXY,
    noProxy: 'a',
  });
});
