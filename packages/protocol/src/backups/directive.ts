import * as z from 'zod/mini';
import { ConfigName, Work } from './config.ts';

/** The body of a `backups.config` directive: what one node backs up under one configuration. `object_id` of the directive is the
 *  configuration's id; its `generation` grows with each change and never starts anew. */

export const PresentConfig = z.strictObject({
  state: z.literal('present'),
  config_id: z.uuid(),
  name: ConfigName,
  paused: z.boolean(),
  work: Work,
});
export type PresentConfig = z.infer<typeof PresentConfig>;
export const AbsentConfig = z.strictObject({ state: z.literal('absent'), config_id: z.uuid() });
export const ConfigBody = z.discriminatedUnion('state', [PresentConfig, AbsentConfig]);
export type ConfigBody = z.infer<typeof ConfigBody>;
