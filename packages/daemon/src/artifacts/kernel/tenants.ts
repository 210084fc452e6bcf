import { join } from 'node:path';
import { parseRecord, type Wanted } from './attachment.ts';
import { isKey, type Layout } from './layout.ts';
import { linkAt } from './observe.ts';
import { listFolder, readRecord } from './pin-folders.ts';
import { readFacts } from './revision.ts';

/** Which programs and links of a hook are ours, and whose. Read from the pins; link ids are never given twice while a machine runs,
 *  so what was found once needs no second look. */

export interface TcxTenant {
  artifact: string;
  program: string;
  priority: number;
  anchored: boolean;
}

export interface Tenants {
  /** `name version` of the artifact that a program belongs to; null: not ours. */
  ownerOf(programId: number): string | null;
  /** Null: not ours. */
  tcxTenant(linkId: number): TcxTenant | null;
  remember(linkId: number, tenant: TcxTenant): void;
}

export const tcxTenantOf = (artifact: string, program: string, order: Wanted['order']): TcxTenant => ({
  artifact,
  program,
  priority: order?.priority ?? DEFAULT_PRIORITY,
  anchored: order?.before !== undefined || order?.after !== undefined,
});
/** Then they are read again. */
const MOST_KNOWN = 10_000;
/** The manifest's own default. */
export const DEFAULT_PRIORITY = 50;

export const tenants = (layout: Layout): Tenants => {
  const known = new Map<number, TcxTenant | null>();
  const artifacts = () =>
    listFolder(layout.node)
      .filter(isKey)
      .map((key) => layout.artifact(key));
  const scan = (): void => {
    for (const paths of artifacts())
      for (const name of listFolder(paths.records)) {
        const record = parseRecord(readRecord(join(paths.records, name)));
        const link = record?.point.kind === 'tcx' ? linkAt(join(paths.links, name)) : null;
        if (!record || !link) continue;
        const { artifact, program, order } = record;
        known.set(link.id, tcxTenantOf(artifact, program.replace(/^.*-/, ''), order));
      }
  };
  return {
    ownerOf: (programId) => {
      for (const paths of artifacts())
        for (const revision of listFolder(paths.revisions)) {
          const facts = readFacts(layout.revision(paths, revision));
          if (facts && Object.values(facts.programs).includes(programId)) return facts.artifact;
        }
      return null;
    },
    tcxTenant: (linkId) => {
      if (linkId === 0) return null;
      if (!known.has(linkId)) {
        if (known.size > MOST_KNOWN) known.clear();
        known.set(linkId, null);
        scan();
      }
      return known.get(linkId) ?? null;
    },
    remember: (linkId, tenant) => void known.set(linkId, tenant),
  };
};
