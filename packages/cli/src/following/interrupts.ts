/** What Ctrl-C does to a command that runs elsewhere: cancel it, let go of it, or ask which. The second one always lets go. */

export type InterruptPolicy = 'cancel' | 'detach' | 'ask';
export type Answer = 'cancel' | 'detach' | 'keep';

export interface InterruptDoor {
  policy: InterruptPolicy;
  /** Null: nobody can be asked, and `ask` means cancel, as the command itself would have ended. */
  ask: (() => Promise<Answer>) | null;
  cancel(): Promise<void>;
  say(text: string): Promise<void>;
}

export interface Interrupts {
  /** Aborted when the command is let go of. */
  readonly letGo: AbortSignal;
  /** Whether a person ended our following, by either way. */
  readonly interrupted: boolean;
  /** As a signal would, e.g. from a view that reads the keyboard itself. */
  strike(): void;
  /** Also for a reader that went away. */
  cancel(): Promise<void>;
  stop(): void;
}

export const interrupts = (door: InterruptDoor): Interrupts => {
  const controller = new AbortController();
  let strikes = 0;
  let interrupted = false;
  const letGo = () => {
    interrupted = true;
    controller.abort();
  };
  const cancel = async () => {
    interrupted = true;
    try {
      await door.cancel();
      await door.say('cancelling; Ctrl-C again lets go of it.');
    } catch (error) {
      await door.say(`could not cancel: ${error instanceof Error ? error.message : String(error)} Letting go of it.`);
      letGo();
    }
  };
  const decide = async () => {
    if (door.policy === 'detach') return letGo();
    if (door.policy === 'cancel' || door.ask === null) return await cancel();
    const answer = await door.ask();
    if (controller.signal.aborted) return;
    if (answer === 'cancel') await cancel();
    else if (answer === 'detach') letGo();
    else strikes = 0;
  };
  const strike = () => {
    strikes++;
    if (strikes > 1) letGo();
    else void decide();
  };
  process.on('SIGINT', strike);
  process.on('SIGTERM', strike);
  process.on('SIGHUP', letGo); // the terminal is gone; the command need not go with it
  return {
    letGo: controller.signal,
    get interrupted() {
      return interrupted;
    },
    strike,
    cancel,
    stop: () => {
      process.off('SIGINT', strike);
      process.off('SIGTERM', strike);
      process.off('SIGHUP', letGo);
    },
  };
};
