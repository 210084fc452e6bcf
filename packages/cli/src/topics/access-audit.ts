import type { AuditEntry } from '@aegis/protocol/access/audit';
import { AegisError } from '@aegis/protocol/errors';
import * as Args from '@oclif/core/args';
import * as Flags from '@oclif/core/flags';
import { auditFile, exportOf, keptHeads, newFile } from '../access/audit-files.ts';
import { verdictText } from '../access/audit-verdict.ts';
import { everyPage } from '../api/pages.ts';
import { routes } from '../api/routes.ts';
import { ServerCommand, serverFlags } from '../base-command.ts';
import { table } from '../ui/table.ts';
import { secondsOf } from '../ui/time.ts';

const timeOf = (flag: string, text: string | undefined): string | undefined => {
  if (text === undefined) return undefined;
  const seconds = secondsOf(text);
  const ms = seconds === null ? Date.parse(text) : Date.now() - seconds * 1000;
  if (!Number.isNaN(ms)) return new Date(ms).toISOString();
  throw new AegisError('cli.usage', `--${flag} ${text}: not a time; write 2h, 7d, or 2027-01-31T12:00:00Z.`);
};

const rowOf = ({ seq, at, actor_name, actor_kind, action, outcome, code, count, address, targets }: AuditEntry) => [
  String(seq),
  at,
  actor_name ?? actor_kind,
  action,
  code === null ? outcome : `${outcome} ${code}${count > 1 ? ` (${count} times)` : ''}`,
  address ?? '',
  targets.join(','),
];

export class AccessAuditList extends ServerCommand {
  static override description =
    'Lists who did what, newest first: every call that changes something, once when it began and once when it ended, and every refusal of credentials or role. Payloads, scripts and secrets are never in it.';
  static override examples = [
    { description: 'The newest', command: 'aegis access audit list' },
    { description: 'What was refused today', command: 'aegis access audit list --outcome refused --since 24h' },
    {
      description: 'Who has to do with a command',
      command: 'aegis access audit list --target 01931f5e-8a3c-7000-8000-000000000001',
    },
  ];
  static override flags = {
    limit: Flags.integer({ default: 50, min: 1, max: 100_000, helpValue: 'N', summary: 'Entries at most' }),
    actor: Flags.string({ helpValue: 'NAME', summary: 'Of this token, node or user (name or id)' }),
    action: Flags.string({ helpValue: 'NAME', summary: 'Of this action (an operationId of /openapi.json)' }),
    outcome: Flags.option({ options: ['begun', 'ok', 'refused', 'failed'] as const, summary: 'With this outcome' })(),
    target: Flags.string({ helpValue: 'ID', summary: 'With this id or name among the targets' }),
    address: Flags.string({ helpValue: 'IP', summary: 'From this address' }),
    since: Flags.string({ helpValue: 'TIME', summary: 'Not older than this (2h, 7d, or a time)' }),
    until: Flags.string({ helpValue: 'TIME', summary: 'Older than this' }),
    ...serverFlags,
  };

  async run(): Promise<undefined> {
    const { flags } = await this.parse(AccessAuditList);
    const { actor, action, outcome, target, address } = flags;
    const query = {
      ...{ actor, action, outcome, target, address },
      since: timeOf('since', flags.since),
      until: timeOf('until', flags.until),
      limit: Math.min(flags.limit, 1000),
    };
    await this.withApi(flags, async (api) => {
      const entries: AuditEntry[] = [];
      for await (const page of everyPage((cursor) => api.call(routes.listAudit, { query: { ...query, cursor } }))) {
        entries.push(...page.items.slice(0, flags.limit - entries.length));
        if (entries.length >= flags.limit) break;
      }
      if (flags.json) return await this.printJson({ entries });
      const head = ['SEQ', 'TIME', 'WHO', 'ACTION', 'OUTCOME', 'FROM', 'TARGETS'];
      await this.print(table(head, entries.map(rowOf), this.width));
    });
  }
}

export class AccessAuditExport extends ServerCommand {
  static override description =
    "Writes the whole chain as NDJSON (docs/audit.md), oldest first, with the heads that the server's key signed. --head-out keeps the newest signed head in a file of its own: whoever keeps it elsewhere can tell later, with 'aegis access audit verify --head', that nothing up to it was removed or written anew, not even by somebody who has the server's database.";
  static override examples = [
    {
      description: 'Into files',
      command: 'aegis access audit export --out audit.ndjson --head-out "head-$(date +%F).json"',
    },
    { description: 'Packed', command: 'aegis access audit export | zstd > audit.ndjson.zst' },
  ];
  static override flags = {
    out: Flags.string({ helpValue: 'FILE', summary: 'Write there, never over a file (default: standard output)' }),
    'head-out': Flags.string({ helpValue: 'FILE', summary: 'Write the newest signed head there' }),
    ...serverFlags,
  };

  async run(): Promise<undefined> {
    const { flags } = await this.parse(AccessAuditExport);
    await this.withApi(flags, async (api) => {
      using out = flags.out === undefined ? null : newFile(flags.out);
      using headOut = flags['head-out'] === undefined ? null : newFile(flags['head-out']);
      let entries = 0;
      let ended = false;
      let newest: string | null = null;
      for await (const line of exportOf(api)) {
        if (line.startsWith('{"type":"entry"')) entries += 1;
        else if (line.startsWith('{"type":"head"')) newest ??= line; // the newest one comes first
        ended = line.startsWith('{"type":"end"');
        if (out) out.write(`${line}\n`);
        else await this.print(`${line}\n`);
      }
      if (!ended) throw new AegisError('http.internal', 'The export broke off. Run it again.');
      if (headOut) {
        if (newest === null)
          throw new AegisError(
            'http.not_found',
            'No head is signed yet; the server signs the first one within its audit.sign_every_sec. Try again then.',
          );
        headOut.write(`${newest}\n`);
      }
      out?.keep();
      headOut?.keep();
      if (!out) return;
      const files = { file: flags.out, head_file: flags['head-out'] ?? null };
      await (flags.json ? this.printJson({ entries, ...files }) : this.print(`${entries} entries in ${flags.out}\n`));
    });
  }
}

export class AccessAuditVerify extends ServerCommand {
  static override description =
    `Recomputes the chain, from a file of 'aegis access audit export' without any server, or from the server itself. Finds every change, deletion, reordering and truncation, and says in which line. Exit status: 0 when it is intact, 1 when something is found.

Somebody who can write the server's database can also shorten the chain or write it anew so that it fits again. What the server's key signed tells that: heads in the export, and better those of --head, which were kept elsewhere. --root pins the fleet, so that an export cannot bring a key of its own.`;
  static override examples = [
    { description: "The server's chain", command: 'aegis access audit verify --head head-2027-01-31.json' },
    {
      description: 'A file, offline',
      command: 'aegis access audit verify audit.ndjson --head head-2027-01-31.json --root 1f3c…',
    },
  ];
  static override args = {
    file: Args.string({ ignoreStdin: true, description: 'Export (-: standard input; default: ask the server)' }),
  };
  static override flags = {
    head: Flags.string({ multiple: true, helpValue: 'FILE', summary: 'A signed head that was kept; repeatable' }),
    root: Flags.string({
      helpValue: 'FINGERPRINT',
      summary: "The fleet's root key, as 'aegis server init' printed it",
    }),
    ...serverFlags,
  };

  async run(): Promise<number> {
    const { flags, args } = await this.parse(AccessAuditVerify);
    const root = flags.root?.toLowerCase() ?? null;
    if (root !== null && !/^[0-9a-f]{64}$/.test(root))
      throw new AegisError('cli.usage', '--root: not a fingerprint of 64 hexadecimal digits.');
    const kept = await keptHeads(flags.head ?? []);
    const { auditVerifier } = await import('@aegis/protocol/access/audit-verify');
    const verifier = auditVerifier({ rootFingerprint: root, kept });
    const take = async (lines: AsyncIterable<string>) => {
      for await (const line of lines) verifier.line(line);
    };
    if (args.file === undefined) await this.withApi(flags, (api) => take(exportOf(api)));
    else await take(auditFile(args.file));
    const verdict = verifier.end();
    await (flags.json
      ? this.printJson({ ...verdict, root_pinned: root !== null })
      : this.print(verdictText(verdict, { pinned: root !== null, heads: kept.length })));
    return verdict.intact ? 0 : 1;
  }
}
