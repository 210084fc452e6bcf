import { createHash } from 'node:crypto';
import { expect, test } from 'vitest';
import {
  authorization,
  type CanonicalParts,
  EMPTY_SHA256,
  presignedQuery,
  signingKeys,
  UNSIGNED_PAYLOAD,
} from './sigv4.ts';

/** AWS's published examples: of S3's documentation ("Signature Calculations for the Authorization Header", "Using Query Parameters"), and
 *  of the general test suite of Signature Version 4. */

const s3 = {
  credentials: {
    accessKeyId: 'AKIAIOSFODNN7EXAMPLE',
    secretAccessKey: 'wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY',
  },
  scope: { region: 'us-east-1', service: 's3', now: Date.parse('2013-05-24T00:00:00Z') },
};
const suite = {
  credentials: { accessKeyId: 'AKIDEXAMPLE', secretAccessKey: 'wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY' },
  scope: { region: 'us-east-1', service: 'service', now: Date.parse('2015-08-30T12:36:00Z') },
};
const signatureIn = (text: string): string | undefined => /Signature=([0-9a-f]{64})$/.exec(text)?.[1];
const signed = (parts: CanonicalParts, { credentials, scope }: typeof s3): string | undefined =>
  signatureIn(authorization(parts, credentials, scope, signingKeys()));

const host = 'examplebucket.s3.amazonaws.com';
const withDate = (payloadSha256: string, more: Record<string, string> = {}) => ({
  payloadSha256,
  headers: { host, 'x-amz-content-sha256': payloadSha256, 'x-amz-date': '20130524T000000Z', ...more },
});
const welcome = createHash('sha256').update('Welcome to Amazon S3.').digest('hex');

test.each([
  [
    'GET of an object with a range',
    { method: 'GET', path: '/test.txt', query: [], ...withDate(EMPTY_SHA256, { range: 'bytes=0-9' }) },
    'f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41',
  ],
  [
    'PUT of an object with a storage class',
    {
      method: 'PUT',
      path: '/test$file.text',
      query: [],
      ...withDate(welcome, { date: 'Fri, 24 May 2013 00:00:00 GMT', 'x-amz-storage-class': 'REDUCED_REDUNDANCY' }),
    },
    '98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd',
  ],
  [
    'GET of a subresource without a value',
    { method: 'GET', path: '/', query: [['lifecycle', '']], ...withDate(EMPTY_SHA256) },
    'fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543',
  ],
  [
    'a listing',
    {
      method: 'GET',
      path: '/',
      query: [
        ['prefix', 'J'],
        ['max-keys', '2'],
      ],
      ...withDate(EMPTY_SHA256),
    },
    '34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7',
  ],
] as [string, CanonicalParts, string][])("S3's example: %s", (_, parts, expected) => {
  expect(signed(parts, s3)).toBe(expected);
});

test("S3's example of a presigned GET, whole", () => {
  const parts = { method: 'GET', path: '/test.txt', query: [], headers: { host }, payloadSha256: UNSIGNED_PAYLOAD };
  expect(presignedQuery(parts, s3.credentials, s3.scope, 86_400, signingKeys())).toBe(
    'X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404',
  );
});

const example = { host: 'example.amazonaws.com', 'x-amz-date': '20150830T123600Z' };
test.each([
  [
    'get-vanilla',
    { method: 'GET', path: '/', query: [], headers: example },
    '5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31',
  ],
  [
    'post-vanilla',
    { method: 'POST', path: '/', query: [], headers: example },
    '5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b',
  ],
  [
    'get-vanilla-query-order-key-case',
    {
      method: 'GET',
      path: '/',
      query: [
        ['Param2', 'value2'],
        ['Param1', 'value1'],
      ],
      headers: example,
    },
    'b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500',
  ],
  [
    'get-vanilla-query-unreserved',
    {
      method: 'GET',
      path: '/',
      query: [
        [
          '-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz',
          '-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz',
        ],
      ],
      headers: example,
    },
    '9c3e54bfcdf0b19771a7f523ee5669cdf59bc7cc0884027167c21bb143a40197',
  ],
  [
    'get-utf8',
    { method: 'GET', path: '/ሴ', query: [], headers: example },
    '8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85',
  ],
  [
    'get-vanilla-utf8-query',
    { method: 'GET', path: '/', query: [['ሴ', 'bar']], headers: example },
    '2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04',
  ],
  [
    'get-header-value-trim',
    {
      method: 'GET',
      path: '/',
      query: [],
      headers: { ...example, 'my-header1': ' value1', 'my-header2': ' "a   b   c"' },
    },
    'acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736',
  ],
] as [string, Omit<CanonicalParts, 'payloadSha256'>, string][])('the test suite: %s', (_, parts, expected) => {
  expect(signed({ ...parts, payloadSha256: EMPTY_SHA256 }, suite)).toBe(expected);
});

test('a key is derived for each day, region and secret', () => {
  const keys = signingKeys();
  const scope = { ...s3.scope };
  const one = keys('secret', '20130524', scope);
  expect(keys('secret', '20130524', { ...scope })).toBe(one);
  for (const other of [
    keys('secret', '20130525', scope),
    keys('other', '20130524', scope),
    keys('secret', '20130524', { ...scope, region: 'eu-central-1' }),
  ])
    expect(other.equals(one)).toBe(false);
  for (let nth = 0; nth < 100; nth++) keys(`secret ${nth}`, '20130524', scope);
  expect(keys('secret', '20130524', scope).equals(one)).toBe(true);
});
