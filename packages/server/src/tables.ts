/** The whole database as Kysely sees it: each domain's tables side by side. Types only. */
import type { Transaction } from 'kysely';
import type { AccessTables } from './access/tables.ts';
import type { ArtifactsTables } from './artifacts/tables.ts';
import type { BackupsTables } from './backups/tables.ts';
import type { ChannelTables } from './channel/tables.ts';
import type { CommandsTables } from './commands/tables.ts';
import type { EventsTables } from './events/tables.ts';
import type { MessagesTables } from './messages/tables.ts';
import type { NodesTables } from './nodes/tables.ts';
import type { Storage as AnyStorage } from './platform/storage/storage.ts';

export type Tables = AccessTables &
  NodesTables &
  CommandsTables &
  ArtifactsTables &
  BackupsTables &
  ChannelTables &
  MessagesTables &
  EventsTables;
export type Storage = AnyStorage<Tables>;
export type Tx = Transaction<Tables>;
