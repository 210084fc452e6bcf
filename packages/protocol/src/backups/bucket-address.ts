import type { S3Destination } from './config.ts';

/** Where a bucket is reached. Whoever signs, server or node, makes the address here. */
export interface BucketAddress {
  /** Scheme, host and port. */
  origin: string;
  /** As the Host header says it: without the port that belongs to the scheme. */
  host: string;
  /** Before the key: '/' or '/bucket/'. */
  root: string;
  tls: boolean;
  /** The bucket's name stands in the path. */
  pathStyle: boolean;
}

export const bucketAddress = ({ bucket, region, endpoint, path_style }: S3Destination): BucketAddress => {
  const base = new URL(endpoint ?? `https://s3.${region}.amazonaws.com${region.startsWith('cn-') ? '.cn' : ''}`);
  const tls = base.protocol === 'https:';
  // A certificate for *.host does not cover a name with dots, and an address of numbers has no names below it.
  const pathStyle = path_style || (tls && bucket.includes('.')) || /^[\d.]+$|^\[/.test(base.hostname);
  if (!pathStyle) base.hostname = `${bucket}.${base.hostname}`;
  return { origin: base.origin, host: base.host, root: pathStyle ? `/${bucket}/` : '/', tls, pathStyle };
};
