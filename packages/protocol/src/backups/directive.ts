import * as z from 'zod/mini';
import { type BackupSpec, ConfigName, Work } from './config.ts';

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

/** What a configuration asks of each of its nodes: made by the server, and by operators who sign it themselves. */
export const presentConfig = (configId: string, spec: BackupSpec): PresentConfig => ({
  state: 'present',
  config_id: configId,
  name: spec.name,
  paused: spec.paused,
  work: {
    sources: spec.sources,
    exclude: spec.exclude,
    destination: spec.destination,
    type: spec.type,
    compression: spec.compression,
    encryption: spec.encryption,
    schedule: spec.schedule,
    bandwidth: spec.bandwidth,
    hooks: spec.hooks,
    limits: spec.limits,
    retries: spec.retries,
    tags: spec.tags,
  },
});
