import { createHash, createPublicKey, type KeyObject, sign } from 'node:crypto';
import { isIP, SocketAddress } from 'node:net';
import { bits, integer, objectId, octets, sequence, setOf, tagged, time, truth, utf8 } from './der.ts';

/** A certificate that its own key signs (X.509 v3, RFC 5280), of a P-256 key: Node.js has no call for it, and browsers take no Ed25519
 *  there. Why not a library or openssl: docs/decisions/0017. */
export interface CertificateWish {
  /** P-256. */
  key: KeyObject;
  commonName: string;
  /** Host names and addresses that it is for. */
  names: readonly string[];
  notBeforeMs: number;
  notAfterMs: number;
  /** At most 20 bytes. */
  serial: Uint8Array;
}

const ECDSA_WITH_SHA256 = sequence(objectId('1.2.840.10045.4.3.2'));

/** @returns PEM */
export const selfSignedCertificate = (wish: CertificateWish): string => {
  const spki = createPublicKey(wish.key).export({ type: 'spki', format: 'der' });
  const name = sequence(setOf(sequence(objectId('2.5.4.3'), utf8(wish.commonName.slice(0, 64)))));
  const body = sequence(
    tagged(0xa0, integer(Buffer.from([2]))), // version 3
    integer(positive(wish.serial)),
    ECDSA_WITH_SHA256,
    name,
    sequence(time(wish.notBeforeMs), time(wish.notAfterMs)),
    name,
    spki,
    tagged(0xa3, sequence(...extensionsOf(wish.names, spki))),
  );
  const signature = sign('sha256', body, wish.key);
  const lines = sequence(body, ECDSA_WITH_SHA256, bits(signature))
    .toString('base64')
    .match(/.{1,64}/g);
  return `-----BEGIN CERTIFICATE-----\n${lines?.join('\n') ?? ''}\n-----END CERTIFICATE-----\n`;
};

/** RFC 5280, 4.1.2.2: above zero, and at most 20 bytes with its sign. */
const positive = (serial: Uint8Array): Uint8Array => {
  const bytes = Buffer.from(serial.subarray(0, 20));
  bytes[0] = ((bytes[0] ?? 0) & 0x7f) | 0x01;
  return bytes;
};

const extensionsOf = (names: readonly string[], spki: Buffer): Buffer[] => {
  const extension = (id: string, value: Buffer, critical = false): Buffer =>
    sequence(objectId(id), ...(critical ? [truth()] : []), octets(value));
  const keyId = createHash('sha256').update(spki).digest().subarray(0, 20);
  return [
    extension('2.5.29.19', sequence(), true), // basic constraints: no authority, so that its key can vouch for nobody else
    extension('2.5.29.15', bits(Buffer.from([0x80]), 7), true), // key usage: digital signature
    extension('2.5.29.37', sequence(objectId('1.3.6.1.5.5.7.3.1'))), // extended key usage: server
    extension('2.5.29.14', octets(keyId)),
    ...(names.length > 0 ? [extension('2.5.29.17', sequence(...names.map(alternativeName)))] : []),
  ];
};

const alternativeName = (name: string): Buffer =>
  isIP(name) === 0 ? tagged(0x82, Buffer.from(name, 'ascii')) : tagged(0x87, addressBytes(name));

const addressBytes = (address: string): Buffer => {
  if (isIP(address) === 4) return Buffer.from(address.split('.').map(Number));
  const { address: plain } = new SocketAddress({ address, family: 'ipv6' });
  const dotted = /^(.*:)(\d+)\.(\d+)\.(\d+)\.(\d+)$/.exec(plain);
  const hex = (high: string | undefined, low: string | undefined) => (Number(high) * 256 + Number(low)).toString(16);
  const text = dotted ? `${dotted[1]}${hex(dotted[2], dotted[3])}:${hex(dotted[4], dotted[5])}` : plain;
  const [head = '', tail] = text.split('::');
  const groups = (part: string) => part.split(':').filter((group) => group !== '');
  const [before, after] = [groups(head), groups(tail ?? '')];
  const all = [...before, ...Array.from({ length: 8 - before.length - after.length }, () => '0'), ...after];
  return Buffer.concat(all.map((group) => Buffer.from(group.padStart(4, '0'), 'hex')));
};
