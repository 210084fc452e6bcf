import { expect, test } from 'vitest';
import { bucketAddress } from './bucket-address.ts';
import type { S3Destination } from './config.ts';

const at = (more: Partial<S3Destination>): S3Destination => ({
  kind: 's3',
  bucket: 'backups',
  region: 'eu-central-1',
  prefix: '',
  path_style: false,
  object_lock_mode: 'governance',
  checksum: 'when_required',
  access: 'signed',
  ...more,
});

test.each([
  ["Amazon's own", {}, 'https://backups.s3.eu-central-1.amazonaws.com', '/'],
  ['by path', { path_style: true }, 'https://s3.eu-central-1.amazonaws.com', '/backups/'],
  ['in China', { region: 'cn-north-1' }, 'https://backups.s3.cn-north-1.amazonaws.com.cn', '/'],
  [
    'a name with dots, which no certificate covers',
    { bucket: 'a.b' },
    'https://s3.eu-central-1.amazonaws.com',
    '/a.b/',
  ],
  ['the same without TLS', { bucket: 'a.b', endpoint: 'http://s3.lan' }, 'http://a.b.s3.lan', '/'],
  ['a server of one’s own', { endpoint: 'https://s3.example.com' }, 'https://backups.s3.example.com', '/'],
  ['a port', { endpoint: 'https://s3.example.com:9000' }, 'https://backups.s3.example.com:9000', '/'],
  ["the scheme's own port", { endpoint: 'https://s3.example.com:443' }, 'https://backups.s3.example.com', '/'],
  ['an address', { endpoint: 'http://127.0.0.1:9000' }, 'http://127.0.0.1:9000', '/backups/'],
  ['an address of version 6', { endpoint: 'https://[::1]:9000' }, 'https://[::1]:9000', '/backups/'],
] as [string, Partial<S3Destination>, string, string][])('%s', (_, more, origin, root) => {
  const address = bucketAddress(at(more));
  expect(address).toEqual({
    origin,
    host: new URL(origin).host,
    root,
    tls: origin.startsWith('https:'),
    pathStyle: root !== '/',
  });
});
