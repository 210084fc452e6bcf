import { execFile, execFileSync, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { aegis, cleanEnv } from '../../../test/fleet/fleet.ts';
import { type Radosgw, startRadosgw } from '../../../test/fleet/radosgw.ts';
import { makeBackupTree, QUICK_TREE, WHOLE_TREE } from '../backup-tree.ts';
import { type BenchFleet, startBenchFleet } from '../bench-fleet.ts';
import { atMost, type Figure, figure } from '../figure.ts';
import { cpuMs, peakResidentMb, resetPeakResident } from '../proc.ts';
import { type BenchContext, type Section, times } from '../section.ts';

/** A whole backup of one tree to one S3 server, page cache warm: by the daemon as cron would start it, by `tar | zstd` into rclone, by
 *  restic into a new repository each time, by borg into a local one; and back again. The sides take turns, another first in each round. */

const SIDES = ['plain', 'tar', 'encrypted', 'restic', 'borg'] as const;
type Side = (typeof SIDES)[number];

interface Stage {
  bench: BenchFleet;
  s3: Radosgw;
  bucket: string;
  tree: string;
  folder: string;
  dataDir: string;
  daemonPid: number;
  env: Record<string, string>;
  identity: string;
}

const seconds = (what: () => void): number => {
  const before = performance.now();
  what();
  return (performance.now() - before) / 1000;
};
/** Until disk and S3 server have done with what was written or removed before: both do it in their own time. */
const quiet = async ({ pids }: Radosgw): Promise<void> => {
  execFileSync('sync');
  const spent = (): number => Object.values(pids).reduce((sum, pid) => sum + cpuMs(pid), 0);
  for (let tries = 0; tries < 60; tries++) {
    const before = spent();
    await sleep(500);
    if (spent() - before < 50) return;
  }
};
/** Into the page cache: borg asks the kernel to forget what it has read. */
const warm = (tree: string): void => {
  must(['sh', '-c', 'find "$0" -type f -print0 | xargs -0 cat > /dev/null', tree], { PATH: process.env.PATH ?? '' });
};
const must = (argv: readonly string[], env: Readonly<Record<string, string>>): string => {
  const [file = '', ...args] = argv;
  const done = spawnSync(file, args, { env, encoding: 'utf8', maxBuffer: 64 * 1024 * 1024 });
  if (done.status !== 0) throw new Error(`${argv.slice(0, 4).join(' ')}: ${done.status} ${done.stderr.slice(-2000)}`);
  return done.stdout;
};

export const backup: Section = {
  name: 'backup',
  what: 'a tree of many files to S3 and back, against tar | zstd | rclone, restic and borg',
  run: async (context) => {
    await using stage = await setUp(context);
    const { env, dataDir } = stage;
    const once = (config: string) => must([aegis, 'backups', 'run', '--once', config, '--data-dir', dataDir], env);
    const samples = { plain: [], encrypted: [], tar: [], restic: [], borg: [] } as Record<Side, number[]>;
    const memory: number[] = [];
    const act: Record<Side, (round: number) => void> = {
      plain: () => once('plain'),
      encrypted: () => once('encrypted'),
      tar: (round) => tarPipeline(stage, round),
      restic: (round) => resticBackup(stage, round),
      borg: (round) => borgCreate(stage, round),
    };
    const prepare: Partial<typeof act> = {
      restic: (round) => resticInit(stage, round),
      borg: (round) => borgInit(stage, round),
    };
    const rounds = times(context, 3, 1);
    for (let round = 0; round <= rounds; round++) {
      const measured = round > 0; // the first warms the page cache and the S3 server
      const took: string[] = [];
      let peak = 0;
      // Each begins now and then, and none with what the S3 server still does for those before.
      for (let nth = 0; nth < SIDES.length; nth++) {
        const side = SIDES[(nth + round) % SIDES.length] as Side;
        prepare[side]?.(round);
        await quiet(stage.s3);
        warm(stage.tree);
        resetPeakResident(stage.daemonPid);
        const lasted = seconds(() => act[side](round));
        if (side === 'plain') peak = peakResidentMb(stage.daemonPid);
        took.push(`${side} ${lasted.toFixed(2)} s`);
        if (measured) samples[side].push(lasted);
      }
      if (measured) memory.push(peak);
      context.say(`round ${round}: ${took.join(', ')}, ${peak.toFixed(0)} MB`);
      await stage.s3.empty(stage.bucket);
      rmSync(borgRepository(stage, round), { recursive: true, force: true });
    }
    return [
      figure('backup', {
        name: 'backup at level 3',
        unit: 's',
        samples: samples.plain,
        comparedWith: { name: 'tar | zstd -T2 -3 | rclone rcat', samples: samples.tar },
        bar: atMost(1.15, 'ratio'),
        note: 'page cache warm; from the start of `aegis backups run --once` to its end; scanned, packed, hashed, uploaded, completed, reported',
      }),
      figure('backup', {
        name: 'backup at level 3',
        unit: 's',
        samples: samples.plain,
        comparedWith: { name: 'restic backup', samples: samples.restic },
        bar: atMost(0.5, 'ratio'),
        note: 'restic into a new, empty repository on the same S3 server, made before',
      }),
      figure('backup', {
        name: 'backup at level 3',
        unit: 's',
        samples: samples.plain,
        comparedWith: { name: 'borg create', samples: samples.borg },
        note: 'borg into a local repository, zstd,3',
      }),
      figure('backup', {
        name: 'encrypted to one recipient',
        unit: 's',
        samples: samples.encrypted,
        comparedWith: { name: 'the same without', samples: samples.plain },
        bar: atMost(1.25, 'ratio'),
      }),
      figure('backup', {
        name: 'daemon, most resident during a backup',
        unit: 'MB',
        samples: memory,
        bar: atMost(250, 'max'),
      }),
      ...(await restores(stage, context)),
      ...(await manyAtOnce(stage, context)),
    ];
  },
};

const setUp = async (context: BenchContext): Promise<Stage & AsyncDisposable> => {
  const folder = mkdtempSync(join(tmpdir(), 'aegis-bench-backup-'));
  const [bench, s3] = await Promise.all([startBenchFleet({ nodes: 1 }), startRadosgw({ bytes: 16 * 1024 ** 3 })]);
  const release = async (): Promise<void> => {
    await bench[Symbol.asyncDispose]();
    await s3.stop();
    rmSync(folder, { recursive: true, force: true });
  };
  try {
    const bucket = await s3.bucket();
    const tree = join(folder, 'tree');
    context.say('making the tree');
    makeBackupTree(tree, context.quick ? QUICK_TREE : WHOLE_TREE);
    const home = join(folder, 'home');
    mkdirSync(home, { mode: 0o700 });
    const env = cleanEnv(home, bench.cliEnv);
    const credentials = join(folder, 's3.json');
    writeFileSync(credentials, JSON.stringify({ access_key_id: s3.accessKey, secret_access_key: s3.secretKey }), {
      mode: 0o600,
    });
    const identity = join(folder, 'backup.key');
    const recipient =
      /age1[a-z0-9]+/.exec(must([aegis, 'backups', 'key', 'generate', '--output', identity], env))?.[0] ?? '';
    const create = (name: string, source: string, ...more: string[]) =>
      must(
        [
          ...[aegis, 'backups', 'configs', 'create', name, '--source', source, '--to', `s3://${bucket}/bench`],
          ...['--endpoint', s3.endpoint, '--path-style', '--credentials-file', credentials, '--node', 'web-1', ...more],
        ],
        env,
      );
    create('plain', tree);
    create('encrypted', tree, '--recipient', recipient);
    for (let nth = 1; nth <= MANY; nth++) create(`many-${nth}`, join(tree, `area-${nth % (context.quick ? 4 : 40)}`));
    const node = bench.fleet.nodes[0];
    return {
      bench,
      s3,
      bucket,
      tree,
      folder,
      dataDir: node?.dataDir ?? '',
      daemonPid: node?.daemon.pid ?? 0,
      env,
      identity,
      [Symbol.asyncDispose]: release,
    };
  } catch (error) {
    await release();
    throw error;
  }
};

const s3Env = ({ s3, env }: Stage): Record<string, string> => ({
  ...env,
  AWS_ACCESS_KEY_ID: s3.accessKey,
  AWS_SECRET_ACCESS_KEY: s3.secretKey,
  RESTIC_PASSWORD: 'bench',
  BORG_PASSPHRASE: 'bench',
  BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK: 'yes',
  RCLONE_CONFIG: '/dev/null',
  RCLONE_CONFIG_S3_TYPE: 's3',
  RCLONE_CONFIG_S3_PROVIDER: 'Ceph',
  RCLONE_CONFIG_S3_ENV_AUTH: 'true',
  RCLONE_CONFIG_S3_ENDPOINT: s3.endpoint,
  RCLONE_CONFIG_S3_NO_CHECK_BUCKET: 'true',
});
const tarPipeline = (stage: Stage, round: number): void => {
  must(
    [
      ...['bash', '-c', 'set -o pipefail; tar -C "$1" -c . | zstd -T2 -3 -q | rclone rcat "$2"', 'bash'],
      ...[stage.tree, `s3:${stage.bucket}/tar/${round}.tar.zst`],
    ],
    s3Env(stage),
  );
};
const resticRepository = ({ s3, bucket }: Stage, round: number): string =>
  `s3:${s3.endpoint}/${bucket}/restic-${round}`;
const resticInit = (stage: Stage, round: number): void => {
  must(['restic', '-q', '-r', resticRepository(stage, round), 'init', '--repository-version', '2'], s3Env(stage));
};
const resticBackup = (stage: Stage, round: number): void => {
  must(['restic', '-q', '-r', resticRepository(stage, round), '--no-cache', 'backup', stage.tree], s3Env(stage));
};
const borgRepository = ({ folder }: Stage, round: number): string => join(folder, `borg-${round}`);
const borgInit = (stage: Stage, round: number): void => {
  must(['borg', 'init', '--encryption', 'none', borgRepository(stage, round)], s3Env(stage));
};
const borgCreate = (stage: Stage, round: number): void => {
  const to = `${borgRepository(stage, round)}::one`;
  must(['borg', 'create', '--compression', 'zstd,3', to, stage.tree], s3Env(stage));
};

const restores = async (stage: Stage, context: BenchContext): Promise<Figure[]> => {
  const done = must([aegis, 'backups', 'run', '--once', 'plain', '--json', '--data-dir', stage.dataDir], stage.env);
  const { run_id: run } = JSON.parse(done.trim().split('\n').at(-1) ?? '') as { run_id: string };
  resticInit(stage, 1000);
  resticBackup(stage, 1000);
  const ours: number[] = [];
  const theirs: number[] = [];
  const rounds = times(context, 2, 1); // restic takes two minutes for one
  for (let round = 0; round < rounds; round++) {
    const [a, b] = [join(stage.folder, 'restored'), join(stage.folder, 'restored-by-restic')];
    const mine = seconds(() =>
      must(
        [...[aegis, 'backups', 'restore', '--on-this-node', run, '--target', a], ...['--data-dir', stage.dataDir]],
        stage.env,
      ),
    );
    const restic = seconds(() =>
      must(
        ['restic', '-q', '-r', resticRepository(stage, 1000), '--no-cache', 'restore', 'latest', '--target', b],
        s3Env(stage),
      ),
    );
    execFileSync('diff', ['-r', '--no-dereference', stage.tree, join(a, stage.tree)], { stdio: 'inherit' });
    context.say(`restore ${round}: aegis ${mine.toFixed(2)} s, restic ${restic.toFixed(2)} s`);
    for (const folder of [a, b]) rmSync(folder, { recursive: true, force: true });
    ours.push(mine);
    theirs.push(restic);
  }
  return [
    figure('backup', {
      name: 'restore, every file verified',
      unit: 's',
      samples: ours,
      comparedWith: { name: 'restic restore', samples: theirs },
      bar: atMost(0.7, 'ratio'),
      note: 'both onto the local disk, compared with the source afterwards',
    }),
  ];
};

const MANY = 20;
const manyAtOnce = async (stage: Stage, context: BenchContext): Promise<Figure[]> => {
  resetPeakResident(stage.daemonPid);
  const before = performance.now();
  await Promise.all(
    Array.from({ length: MANY }, (_, index) =>
      promisify(execFile)(aegis, ['backups', 'run', '--once', `many-${index + 1}`, '--data-dir', stage.dataDir], {
        env: stage.env,
      }),
    ),
  );
  const took = (performance.now() - before) / 1000;
  const peak = peakResidentMb(stage.daemonPid);
  context.say(`${MANY} at once: ${took.toFixed(2)} s, ${peak.toFixed(0)} MB`);
  return [
    figure('backup', {
      name: `daemon, most resident with ${MANY} configurations at once`,
      unit: 'MB',
      samples: [peak],
      bar: atMost(300, 'max'),
      note: `all asked for at the same moment, each of a folder of 1,200 files; done after ${took.toFixed(1)} s`,
    }),
  ];
};
