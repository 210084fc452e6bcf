import * as Flags from '@oclif/core/flags';
import { ServerCommand, serverFlags } from '../base-command.ts';
import { eventText, gapText } from '../events/event-text.ts';
import { followEvents } from '../events/follow-events.ts';
import { untilInterrupted } from '../following/until-interrupted.ts';
import { outageText } from './logs.ts';

const joined = (values: readonly string[] | undefined): string | undefined =>
  values === undefined || values.length === 0 ? undefined : values.join(',');

export class Events extends ServerCommand {
  static override description =
    `Shows what happens in the fleet: nodes that come and go, every state of every execution, attachments, backup runs, alerts, messages (docs/events.md). With -f as it happens, from now on or after --from, until Ctrl-C: a lost server is waited for, and nothing that happened meanwhile is left out. Without -f what is kept, from the oldest on or after --from.

What is not kept any more is said: on stderr, with --json as a line {"type": "gap", …}. A script that goes on later names the id of the last line that it has with --from.`;
  static override examples = [
    { description: 'Everything, as it happens', command: 'aegis events -f' },
    {
      description: 'What goes wrong',
      command: 'aegis events -f --type execution.failed --type run.failed --type alert',
    },
    { description: 'What happened to one node', command: 'aegis events --node web-1' },
    { description: 'For a script, going on after the last id', command: 'aegis events -f --json --from $LAST' },
  ];
  static override flags = {
    follow: Flags.boolean({ char: 'f', summary: 'Go on, as it happens' }),
    type: Flags.string({
      multiple: true,
      helpValue: 'TYPE',
      summary: 'Only this group (execution) or type (execution.failed); repeatable',
    }),
    node: Flags.string({ multiple: true, helpValue: 'NODE', summary: 'Only this node; repeatable' }),
    from: Flags.string({ helpValue: 'ID', summary: 'After this event (0: from the oldest that is kept)' }),
    'reconnect-for': Flags.integer({
      default: 600,
      min: 0,
      helpValue: 'SEC',
      summary: 'Give up after this long without the server',
    }),
    ...serverFlags,
  };

  async run(): Promise<undefined> {
    const { flags } = await this.parse(Events);
    const { now, pause } = this.around;
    const { follow, from } = flags;
    await untilInterrupted((signal) =>
      this.withApi(flags, async (api) => {
        const told = followEvents(api, {
          type: joined(flags.type),
          node: joined(flags.node),
          ...{ from, follow, signal, now, pause },
          giveUpAfterMs: flags['reconnect-for'] * 1000,
          onOutage: (state) => this.note(outageText(state)),
        });
        for await (const one of told) {
          if (flags.json) await this.print(`${one.text}\n`);
          else if (one.line.type === 'gap') await this.note(gapText(one));
          else await this.print(eventText(one));
        }
      }),
    );
  }
}
