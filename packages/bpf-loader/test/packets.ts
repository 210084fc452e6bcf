/** Frames for runs without a network, and the verdicts of XDP programs. */
export interface FrameFields {
  source?: string;
  target?: string;
  protocol?: number;
  length?: number;
  port?: number;
}

export const ICMP = 1;
export const TCP = 6;
export const UDP = 17;

export const XDP_ABORTED = 0;
export const XDP_DROP = 1;
export const XDP_PASS = 2;

/** An Ethernet frame with an IPv4 packet, from 192.0.2.1 to 192.0.2.2 with ICMP and as long as a ping unless told. */
export const frame = ({
  source = '192.0.2.1',
  target = '192.0.2.2',
  protocol = ICMP,
  length = 98,
  port = 0,
}: FrameFields = {}): Uint8Array => {
  const bytes = new Uint8Array(length);
  const view = new DataView(bytes.buffer);
  bytes.set([2, 0, 0x5e, 0x10, 0, 2, 2, 0, 0x5e, 0x10, 0, 1]);
  view.setUint16(12, 0x0800);
  view.setUint8(14, 0x45);
  view.setUint16(16, length - 14);
  view.setUint8(22, 64);
  view.setUint8(23, protocol);
  bytes.set(source.split('.').map(Number), 26);
  bytes.set(target.split('.').map(Number), 30);
  if (protocol === UDP) view.setUint16(36, port);
  return bytes;
};
