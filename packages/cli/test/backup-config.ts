import { BackupSpec } from '@aegis/protocol/backups/config';
import type { BackupConfig } from '@aegis/protocol/backups/endpoints';
import * as z from 'zod/mini';

/** Configurations for tests, as the server shows them. */

const AT = '2026-01-31T08:00:00.000Z';
const ID = '01981c2e-7f3a-7bd2-a4c1-3f0e8f1d2b6a';
export const configOf = (spec: unknown, more: Partial<BackupConfig> = {}): BackupConfig => ({
  config_id: ID,
  ...z.parse(BackupSpec, spec),
  credentials: null,
  revision: 3,
  created_at: AT,
  created_by: 'alice',
  updated_at: AT,
  updated_by: 'bob',
  assigned: 2,
  last_run: null,
  probe: null,
  ...more,
});
export const MINIMAL = { name: 'etc', sources: ['/etc'], destination: { kind: 'file', path: '/var/backups' } };
