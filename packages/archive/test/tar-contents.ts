import { execFileSync } from 'node:child_process';

/** What Python's tarfile sees in a tar, an implementation that shares nothing with ours. Paths as latin1, one character a byte. */

export interface TarMember {
  path: string;
  kind: string;
  mode: number;
  uid: number;
  gid: number;
  user: string;
  group: string;
  /** Of the content, holes included. */
  size: number;
  mtime: string;
  target: string;
  device: [number, number];
  sha256: string | null;
}

const SCRIPT = `
import sys, tarfile, json, hashlib
kinds = {b'0': 'file', b'1': 'hardlink', b'2': 'symlink', b'3': 'character', b'4': 'block', b'5': 'directory', b'6': 'fifo'}
latin = lambda text: text.encode('utf-8', 'surrogateescape').decode('latin1')
with tarfile.open(fileobj=sys.stdin.buffer, mode='r|', encoding='utf-8', errors='surrogateescape') as tar:
    for m in tar:
        digest = None
        if m.type == b'0':
            digest = hashlib.sha256()
            content = tar.extractfile(m)
            while True:
                piece = content.read(1 << 20)
                if not piece: break
                digest.update(piece)
            digest = digest.hexdigest()
        print(json.dumps({'path': latin(m.name), 'kind': kinds.get(m.type, str(m.type)), 'mode': m.mode, 'uid': m.uid, 'gid': m.gid,
            'user': m.uname, 'group': m.gname, 'size': m.size, 'mtime': m.pax_headers.get('mtime', str(int(m.mtime))),
            'target': latin(m.linkname), 'device': [m.devmajor, m.devminor], 'sha256': digest}))
`;

/** @param archive zstd frames, as an archive has them */
export const tarContents = (archive: Buffer): TarMember[] =>
  execFileSync('sh', ['-c', 'zstd -dcq | python3 -c "$1"', 'sh', SCRIPT], { input: archive, maxBuffer: 1024 ** 3 })
    .toString('utf8')
    .split('\n')
    .filter((line) => line !== '')
    .map((line): TarMember => JSON.parse(line));

/** The tar itself. */
export const tarOf = (archive: Buffer): Buffer =>
  execFileSync('zstd', ['-dcq'], { input: archive, maxBuffer: 2 * 1024 ** 3 });
