/** Maps: opened by object, pin or id. */
import type { MapHandle } from './loader.ts';
import { addon } from './loader.ts';

export class BpfMap implements Disposable {
  readonly name: string;
  /** For this package only. */
  readonly handle: MapHandle;

  constructor(handle: MapHandle, name: string) {
    this.handle = handle;
    this.name = name;
  }

  [Symbol.dispose](): void {
    addon().close(this.handle);
  }
}
