import * as z from 'zod/mini';
import { AegisError } from '../errors.ts';
import { SecureMessage } from './messages.ts';

/** @throws AegisError channel.bad_frame for what is no message: another shape, unknown keys. Of repeated keys the last counts: what was read is what
 *  must be authentic */
export const decodeMessage = (frame: string): SecureMessage => {
  try {
    return z.parse(SecureMessage, JSON.parse(frame));
  } catch {
    throw new AegisError(
      'channel.bad_frame',
      'What came over the channel is no message of it. Give server and node the same release; if they have it, somebody between them alters what they say.',
    );
  }
};
