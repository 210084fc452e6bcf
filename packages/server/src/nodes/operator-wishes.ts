import { type Directive, FUTURE_TOLERANCE_MS, MAX_LIFETIME_MS } from '@aegis/protocol/access/directive';
import type { Envelope } from '@aegis/protocol/access/dsse';
import { type OperatorKey, openOperatorDirective, readDirective } from '@aegis/protocol/access/operators';
import { AegisError } from '@aegis/protocol/errors';
import { type NodeWish, WishKind } from '@aegis/protocol/nodes/endpoints';
import type { Clock } from '../platform/clock.ts';
import type { NodeActor } from '../platform/http/actor.ts';
import type { Within } from '../platform/node-scope.ts';
import type { Storage, Tx } from '../tables.ts';
import { operatorWishesRepository } from './operator-wishes-repository.ts';

/** Operators' own signatures of desired state. The server makes a wish and signs it, as ever; an operator signs the same wish beside it, and
 *  both go to the node, which obeys whose word its policy asks for. Carried only when it says what the wish says. */

type Signable = Directive & { object_id: string; generation: number };

export const operatorWishes = (on: {
  storage: Storage;
  fleet: string;
  operators: () => ReadonlyMap<string, OperatorKey>;
  find: (id: string, within: Within) => Promise<{ uid: string; name: string; key_id: string | null; keyless: boolean }>;
  /** What this server signs for a node, by domain. */
  sources: readonly ((node: NodeActor) => Promise<readonly Envelope[]>)[];
  /** What is signed makes the node's desired state another, so that it fetches it. */
  desired: {
    bump: (tx: Tx, uids: readonly string[]) => Promise<[uid: string, revision: number][]>;
    changed: (revisions: Iterable<readonly [uid: string, revision: number]>) => void;
  };
  clock: Clock;
}) => {
  const repository = operatorWishesRepository(on.storage);
  const directivesOf = async (node: NodeActor): Promise<Envelope[]> => {
    const directives: Envelope[] = [];
    for (const source of on.sources) directives.push(...(await source(node)));
    return directives;
  };
  const wishesOf = async (id: string, within: Within) => {
    const { uid, name, key_id, keyless } = await on.find(id, within);
    const envelopes = await directivesOf({ kind: 'node', uid, name, keyId: key_id, keyless });
    return { uid, name, wishes: envelopes.map(readDirective).filter(isWish) };
  };

  const checked = (envelope: Envelope, wishes: readonly Signable[]): { wish: Signable; envelope: Envelope } => {
    const { directive, keys } = openOperatorDirective(envelope, on.operators());
    const { kind, object_id } = directive;
    if (directive.fleet !== on.fleet) throw differs('it is for another fleet');
    const beyond = keys.find(({ scope }) => scope.kinds?.includes(kind) === false);
    if (beyond) throw differs(`the scope of the key '${beyond.name}' has no '${kind}', and nothing would obey it`);
    const wish = wishes.find((one) => one.kind === kind && one.object_id === object_id);
    if (!wish) throw differs(`nothing of the kind '${kind}' is wished of this node under '${object_id}'`);
    if (wish.generation !== directive.generation)
      throw differs(`it is of generation ${directive.generation}, and by now there is ${wish.generation}`);
    if (canonical(wish.body) !== canonical(directive.body)) throw differs('its body is another one');
    const now = on.clock.now();
    const [issuedAt, expiresAt] = [Date.parse(directive.issued_at), Date.parse(directive.expires_at)];
    if (!(issuedAt - now <= FUTURE_TOLERANCE_MS) || !(expiresAt > now) || expiresAt - issuedAt > MAX_LIFETIME_MS)
      throw new AegisError(
        'access.stale_directive',
        `What is signed holds from ${directive.issued_at} to ${directive.expires_at}, and no node would take it now. Sign it anew.`,
      );
    return { wish, envelope };
  };

  return {
    show: async (id: string, within: Within) => {
      const { uid, name, wishes } = await wishesOf(id, within);
      const signed = await repository.ofNode(uid);
      return {
        node_uid: uid,
        node: name,
        fleet: on.fleet,
        wishes: wishes.flatMap(({ kind: named, object_id, generation, body }): NodeWish[] => {
          const kind = WishKind.def.entries[named as WishKind];
          if (!kind) return [];
          const own = signed.find(
            (one) => one.kind === kind && one.object_id === object_id && one.generation === generation,
          );
          const operator_directive = own ? (JSON.parse(own.envelope) as Envelope) : null; // as checked when it came
          return [{ kind, object_id, generation, body, operator_directive }];
        }),
      };
    },

    /** All of them, or none. @throws AegisError access.bad_signature, bad_directive, stale_directive */
    sign: async (id: string, envelopes: readonly Envelope[], within: Within): Promise<{ signed: number }> => {
      const { uid, wishes } = await wishesOf(id, within);
      const good = envelopes.map((envelope) => checked(envelope, wishes));
      const revisions = await repository.write('nodes.sign-wishes', async (tx) => {
        const bumped = await on.desired.bump(tx, [uid]); // first: it locks
        for (const { wish, envelope } of good)
          await repository.put(tx, {
            node_uid: uid,
            kind: wish.kind,
            object_id: wish.object_id,
            generation: wish.generation,
            signed_at: on.clock.now(),
            envelope: JSON.stringify(envelope),
          });
        return bumped;
      });
      on.desired.changed(revisions);
      return { signed: good.length };
    },

    /** What goes to the node beside the server's own. Of what is wished no more the node would refuse the generation: it is left out. */
    directivesFor: async (node: NodeActor): Promise<{ directives: Envelope[]; operator_directives: Envelope[] }> => {
      const directives = await directivesOf(node);
      const signed = await repository.ofNode(node.uid);
      if (signed.length === 0) return { directives, operator_directives: [] };
      const now = new Map(directives.map(readDirective).map((one) => [`${one.kind} ${one.object_id}`, one.generation]));
      const operator_directives = signed
        .filter(({ kind, object_id, generation }) => now.get(`${kind} ${object_id}`) === generation)
        .map(({ envelope }) => JSON.parse(envelope) as Envelope);
      return { directives, operator_directives };
    },
    /** Part of the transaction that retires a node. */
    nodeRetired: repository.forget,
  };
};
export type OperatorWishes = ReturnType<typeof operatorWishes>;

const isWish = (directive: Directive): directive is Signable =>
  directive.object_id !== undefined && directive.generation !== undefined;

const differs = (why: string): AegisError =>
  new AegisError('access.bad_directive', `What is signed is not what is wished of this node: ${why}. Sign it anew.`);

/** The same JSON whatever the order of keys. */
const canonical = (value: unknown): string =>
  JSON.stringify(value, (_, part: unknown) =>
    typeof part === 'object' && part !== null && !Array.isArray(part)
      ? Object.fromEntries(Object.entries(part).sort(([a], [b]) => (a < b ? -1 : 1)))
      : part,
  );
