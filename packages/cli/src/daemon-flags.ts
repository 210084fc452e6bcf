import { AegisError } from '@aegis/protocol/errors';
import * as Flags from '@oclif/core/flags';

/** The daemon's settings as flags, for `register`, `daemon start` and `daemon config`. */

export const daemonDataDir = Flags.string({
  helpValue: 'DIR',
  summary: "The daemon's data directory (default: $AEGIS_DATA_DIR/daemon, else /var/lib/aegis/daemon)",
});

export const enrolFlags = {
  config: Flags.string({ helpValue: 'FILE', summary: 'Configuration file (default: /etc/aegis/daemon.toml)' }),
  'data-dir': daemonDataDir,
  server: Flags.string({ helpValue: 'URL', summary: 'URL of the server' }),
  'join-token': Flags.string({ helpValue: 'TOKEN', summary: 'Join token; better in AEGIS_JOIN_TOKEN or a file' }),
  'join-token-file': Flags.string({
    helpValue: 'FILE',
    summary: "Read the join token from a file's first line (-: standard input)",
  }),
  name: Flags.string({ helpValue: 'NAME', summary: "The node's name (default: the host name)" }),
  site: Flags.string({ helpValue: 'SITE', summary: "The node's site" }),
  label: Flags.string({
    multiple: true,
    multipleNonGreedy: true,
    helpValue: 'KEY=VALUE',
    summary: 'A label of the node; repeatable',
  }),
  'tls-ca': Flags.string({ helpValue: 'FILE', summary: "Trust this authority's certificate too (PEM)" }),
  'insecure-dev': Flags.boolean({ summary: 'Join a --dev server without a join token; whoever answers is trusted' }),
};

export const daemonFlags = {
  ...enrolFlags,
  'max-concurrent': Flags.integer({ min: 1, helpValue: 'N', summary: 'Commands at once (default: 4)' }),
  'log-level': Flags.option({
    options: ['trace', 'debug', 'info', 'warn', 'error', 'silent'] as const,
    summary: 'How much to log (default: info)',
  })(),
  'log-format': Flags.option({ options: ['json', 'pretty'] as const, summary: 'How to log (default: json)' })(),
  set: Flags.string({
    multiple: true,
    multipleNonGreedy: true,
    helpValue: 'KEY=VALUE',
    summary: "Any other setting, as 'aegis daemon config' names it; repeatable",
  }),
};

/** Of commands that look at this machine's daemon. */
export const localFlags = { 'data-dir': daemonDataDir, config: daemonFlags.config };

type FlagValue = string | number | boolean | string[] | undefined;

/** Flags as settings: the token file read, the labels as one record. */
export const daemonSettings = (
  flags: Readonly<Record<string, FlagValue>>,
  readToken: (path: string) => string,
): Record<string, unknown> => {
  const { label, 'join-token-file': file, ...rest } = flags;
  if (file !== undefined && rest['join-token'] !== undefined)
    throw new AegisError('cli.usage', 'Give --join-token or --join-token-file, not both.');
  return {
    ...rest,
    ...(file === undefined ? {} : { 'join-token': readToken(String(file)) }),
    ...(Array.isArray(label) ? { labels: Object.fromEntries(label.map(labelOf)) } : {}),
  };
};

export const labelOf = (pair: string): [string, string] => {
  const at = pair.indexOf('=');
  if (at < 1) throw new AegisError('cli.usage', `--label ${pair}: write KEY=VALUE.`);
  return [pair.slice(0, at), pair.slice(at + 1)];
};
