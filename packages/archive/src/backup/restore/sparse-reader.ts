import type { AegisError } from '@aegis/protocol/errors';
import { MOST_SEGMENTS } from '../sparse.ts';
import { BLOCK_BYTES } from '../tar-header.ts';
import { badArchive } from './refusals.ts';

/** The data area of a sparse file (`../sparse.ts`), piece by piece: first its map, then what it says where the bytes belong. Nothing outside the file's
 *  size, nothing twice, nothing left over. */
export class SparseReader {
  readonly #size: number;
  readonly #onData: (offset: number, bytes: Buffer) => void;
  /** The map as numbers: the count, then an offset and a length for each. */
  readonly #numbers: number[] = [];
  #digits = 0;
  #number = 0;
  /** Of the data area. */
  #at = 0;
  /** Where the segments' bytes begin; -1 until the map was read. */
  #dataFrom = -1;
  #segment = 0;
  #written = 0;

  constructor(size: number, onData: (offset: number, bytes: Buffer) => void) {
    this.#size = size;
    this.#onData = onData;
  }

  /** @throws AegisError backups.bad_archive; what onData throws */
  push(piece: Buffer): void {
    let from = 0;
    while (this.#dataFrom < 0 && from < piece.length) this.#mapByte(piece[from++] ?? 0);
    while (from < piece.length && this.#at < this.#dataFrom) {
      if (piece[from++] !== 0) throw wrong('its map is not filled with zeros');
      this.#at += 1;
    }
    while (from < piece.length) {
      const [offset, length] = this.#current();
      const bytes = piece.subarray(from, from + length - this.#written);
      this.#onData(offset + this.#written, bytes);
      from += bytes.length;
      this.#written += bytes.length;
      if (this.#written === length) this.#next();
    }
  }

  /** @throws AegisError backups.bad_archive when something is missing */
  end(): void {
    if (this.#dataFrom < 0 || this.#at < this.#dataFrom) throw wrong('its map ends too early');
    if (this.#segment < (this.#numbers[0] ?? 0)) throw wrong('its segments end too early');
  }

  #mapByte(byte: number): void {
    this.#at += 1;
    if (byte !== LINE_FEED) {
      const digit = byte - 0x30;
      if (digit < 0 || digit > 9 || ++this.#digits > MOST_DIGITS) throw wrong('its map is not one of numbers');
      this.#number = this.#number * 10 + digit;
      return;
    }
    if (this.#digits === 0) throw wrong('its map is not one of numbers');
    this.#numbers.push(this.#number);
    this.#number = 0;
    this.#digits = 0;
    const count = this.#numbers[0] ?? 0;
    if (count > MOST_SEGMENTS + 1) throw wrong('its map has too many segments');
    if (this.#numbers.length < 1 + 2 * count) return;
    this.#checkMap();
    this.#dataFrom = Math.ceil(this.#at / BLOCK_BYTES) * BLOCK_BYTES;
    this.#segment = -1;
    this.#next();
  }

  #checkMap(): void {
    let end = 0;
    for (let at = 1; at < this.#numbers.length; at += 2) {
      const offset = this.#numbers[at] ?? 0;
      if (offset < end) throw wrong('the segments of its map overlap');
      end = offset + (this.#numbers[at + 1] ?? 0);
      if (end > this.#size) throw wrong('its map goes beyond its size');
    }
  }

  #current(): [offset: number, length: number] {
    if (this.#segment >= (this.#numbers[0] ?? 0)) throw wrong('something stands behind its segments');
    return [this.#numbers[1 + 2 * this.#segment] ?? 0, this.#numbers[2 + 2 * this.#segment] ?? 0];
  }

  /** The next segment that has bytes. */
  #next(): void {
    const count = this.#numbers[0] ?? 0;
    this.#written = 0;
    do this.#segment += 1;
    while (this.#segment < count && (this.#numbers[2 + 2 * this.#segment] ?? 0) === 0);
  }
}

const LINE_FEED = 0x0a;
/** Of the largest size that a manifest can say. */
const MOST_DIGITS = String(Number.MAX_SAFE_INTEGER).length;
const wrong = (fault: string): AegisError => badArchive('sparse', `a sparse file is not as Aegis writes it: ${fault}`);
