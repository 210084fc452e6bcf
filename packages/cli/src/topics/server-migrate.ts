import { AegisCommand } from '../base-command.ts';
import { storeFlags, storeOf } from '../server-store.ts';
import { table } from '../ui/table.ts';
import { ago } from '../ui/time.ts';

export class ServerMigrate extends AegisCommand {
  static override description =
    "Brings the database to this release's tables; every start does the same, so this is for doing it beforehand, e.g. between stopping the old release and starting several servers of the new one. Forward only: take a backup first. Run again it changes nothing.";
  static override examples = [
    { description: 'In the default place', command: 'aegis server migrate' },
    {
      description: 'On PostgreSQL',
      command: 'DATABASE_URL=postgres://aegis:secret@db/aegis aegis server migrate --data-dir /srv/aegis',
    },
  ];
  static override flags = storeFlags;

  async run(): Promise<undefined> {
    const { flags } = await this.parse(ServerMigrate);
    const store = await storeOf(flags, this.around.env);
    const { migrateServer } = await import('@aegis/server/offline');
    const { migrations } = await migrateServer(store);
    if (flags.json)
      return await this.printJson({
        migrations: migrations.map(({ number, name, appliedAt, now }) => ({
          number,
          name,
          applied_at: new Date(appliedAt).toISOString(),
          now,
        })),
      });
    const rows = migrations.map(({ number, name, appliedAt, now }) => [
      String(number),
      name,
      now ? 'now' : ago(new Date(appliedAt).toISOString(), this.around.now()),
    ]);
    await this.print(table(['NUMBER', 'MIGRATION', 'APPLIED'], rows));
  }
}
