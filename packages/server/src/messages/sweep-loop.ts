import type { Log } from '../platform/log.ts';
import { loop } from '../platform/loop.ts';
import type { MessagesService } from './service.ts';

const EVERY_MS = 5000;

export const messageSweepLoop = (messages: Pick<MessagesService, 'sweep'>, signal: AbortSignal, log: Log): void =>
  loop({ name: 'messages.sweep', everyMs: EVERY_MS, turn: messages.sweep, signal, log });
