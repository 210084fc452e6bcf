import { timingSafeEqual } from 'node:crypto';
import { chooseVersion, isRequestSigned } from '@aegis/protocol/channel/handshake';
import { AuthenticationRequest, CHANNEL_VERSIONS } from '@aegis/protocol/channel/messages';
import { AegisError } from '@aegis/protocol/errors';
import * as z from 'zod/mini';

/** Who wants to connect, judged by the key that signed. The names in headers and frame only say which key to look for. */

/** What the channel needs to know of a node. */
export interface ChannelNode {
  uid: string;
  name: string;
  /** Raw; null for one without a key. */
  publicKey: Buffer | null;
  /** Why it may not connect; told to whoever holds its key, and to nobody else. */
  refused: AegisError | null;
}
export interface Admitted {
  node: ChannelNode & { publicKey: Buffer };
  request: AuthenticationRequest;
  version: number;
  /** The node's clock less ours. */
  skewSec: number;
}
/** Claims of the HTTP request that asked for the WebSocket. */
export interface Claimed {
  agentId: string;
  publicKey: string;
}

const SKEW_SEC = 5 * 60;

/** @throws AegisError channel.bad_frame, channel.bad_handshake, channel.unsupported_version, nodes.clock_skew, nodes.retired,
 *  nodes.deactivated, access.unauthenticated */
export const admit = async (
  text: string,
  claimed: Claimed,
  on: {
    fleet: string;
    /** Of that uid or name. */
    nodeOf(id: string): Promise<ChannelNode | null>;
    nowMs: number;
  },
): Promise<Admitted> => {
  const request = decoded(text);
  if (request.agent_id !== claimed.agentId || request.public_key !== claimed.publicKey)
    throw new AegisError(
      'channel.bad_handshake',
      'X-Agent-ID and X-Agent-Public-Key name another node than the authentication request. Send the same in both.',
    );
  const node = await on.nodeOf(request.agent_id);
  const shown = Buffer.from(request.public_key, 'base64');
  // To whoever holds no key of ours, an unknown node, another one's key and a bad signature are the same.
  const known = timingSafeEqual(shown, node?.publicKey ?? Buffer.alloc(32)) && node?.publicKey;
  const signed = isRequestSigned(on.fleet, request);
  if (!node || !known || !signed)
    throw new AegisError(
      'access.unauthenticated',
      'No active node of this server has this name and this key, or the request is not signed with it. Enrol the node, or see which server it was enrolled with.',
    );
  if (node.refused) throw node.refused;
  const skewSec = request.timestamp - Math.floor(on.nowMs / 1000);
  if (Math.abs(skewSec) > SKEW_SEC)
    throw new AegisError(
      'nodes.clock_skew',
      `The clocks of node and server differ by ${Math.abs(skewSec)} s, and at most ${SKEW_SEC} s are tolerated. Set the clock (NTP) of the one that is wrong.`,
    );
  const version = chooseVersion(request.versions);
  if (version === null)
    throw new AegisError(
      'channel.unsupported_version',
      `The server speaks the versions ${CHANNEL_VERSIONS.join(', ')} of the channel, and the node ${request.versions.join(', ')}. Update the older of the two.`,
    );
  return { node: { ...node, publicKey: known }, request, version, skewSec };
};

const decoded = (text: string): AuthenticationRequest => {
  try {
    return z.parse(AuthenticationRequest, JSON.parse(text));
  } catch {
    throw new AegisError(
      'channel.bad_frame',
      'The first frame of a channel is an authentication request, as docs/channel.md has it.',
    );
  }
};
