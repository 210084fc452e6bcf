/** channel: how offers come in and how reports, output and acknowledgements go out. Knows frames and acknowledgements, never a
 *  domain: what to do with an offer arrives as a handler. Long polling now; a WebSocket carrier implements the same interface.
 *  Invariant: an offer is acknowledged only after its handler said that it is on disk. Must not: keep anything that may not be
 *  lost, or look inside a directive. */
import type { Chunk, NextOffsets, PostedReport, ReportResult, Stream } from '@aegis/protocol/commands/carrier';

export interface CarrierHandlers {
  /** Answers the execution ids that may be acknowledged, each because it is on disk or can never be. Rejects when nothing is. */
  offers(offers: readonly unknown[]): Promise<string[]>;
  /** Whether more work is taken. If not, the carrier asks only now and then, for cancels. */
  hasRoom(): boolean;
  /** Whether work waits for its turn here: then more is fetched in fewer, larger answers. */
  hasBacklog(): boolean;
  /** The revision of this node's desired state that is known here, held or being fetched: the server tells of another at once. */
  desiredRevision(): number;
  /** The server names another revision. Only wakes who fetches it: nothing is waited for. */
  desired(revision: number): void;
  /** The server was reached, or not, for the first time since it was otherwise. */
  reachable?(reachable: boolean): void;
}

export interface CarrierStatus {
  kind: string;
  connected: boolean;
  /** Wall time of the last whole answer. */
  lastContactMs: number | null;
  lastError: string | null;
}

/** Sends make one attempt each and throw platform/http's Unreachable when it is worth another, AegisError when it is not. */
export interface Carrier {
  start(handlers: CarrierHandlers): void;
  sendReports(reports: readonly PostedReport[]): Promise<ReportResult[]>;
  sendOutput(executionId: string, stream: Stream, offset: number, bytes: Uint8Array): Promise<NextOffsets>;
  sendChunks(commandId: string, executionId: string, chunks: readonly Chunk[]): Promise<NextOffsets>;
  status(): CarrierStatus;
  /** Takes no more offers, not even cancels; what was accepted can still be reported. For good. */
  endOffers(): void;
  stop(): Promise<void>;
}
