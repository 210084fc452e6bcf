import { migration0001 } from './access/migrations/0001-access.ts';
import { migration0009 } from './access/migrations/0009-audit.ts';
import { migration0010 } from './access/migrations/0010-token-scopes.ts';
import { migration0005 } from './artifacts/migrations/0005-artifacts.ts';
import { migration0006 } from './backups/migrations/0006-backups.ts';
import { migration0007 } from './backups/migrations/0007-backups-upkeep.ts';
import { migration0012 } from './channel/migrations/0012-connections.ts';
import { migration0003 } from './commands/migrations/0003-commands.ts';
import { migration0014 } from './commands/migrations/0014-operators-directives.ts';
import { migration0013 } from './events/migrations/0013-events.ts';
import { migration0011 } from './messages/migrations/0011-messages.ts';
import { migration0002 } from './nodes/migrations/0002-nodes.ts';
import { migration0004 } from './nodes/migrations/0004-registration-origins.ts';
import { migration0008 } from './nodes/migrations/0008-agents.ts';
import { migration0015 } from './nodes/migrations/0015-operator-wishes.ts';
import type { Migration } from './platform/storage/migrate.ts';

/** Every migration of every domain in the one order in which they run. Append only: what was released never changes. */
export const MIGRATIONS: readonly Migration[] = [
  migration0001,
  migration0002,
  migration0003,
  migration0004,
  migration0005,
  migration0006,
  migration0007,
  migration0008,
  migration0009,
  migration0010,
  migration0011,
  migration0012,
  migration0013,
  migration0014,
  migration0015,
];
