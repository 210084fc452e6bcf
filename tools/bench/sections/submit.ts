import { mkdirSync } from 'node:fs';
import { userInfo } from 'node:os';
import { join } from 'node:path';
import { aegis, cleanEnv } from '../../../test/fleet/fleet.ts';
import { ansibleOver } from '../ansible.ts';
import { startBenchFleet } from '../bench-fleet.ts';
import { atMost, figure } from '../figure.ts';
import { sshArgv, startOpenSsh } from '../openssh.ts';
import { type Section, times } from '../section.ts';
import { median } from '../statistics.ts';
import { alternately, runProcess } from '../stopwatch.ts';

/** `aegis submit` as an operator types it, from the shell's fork to its exit, against ssh and Ansible on the same machine. */

const FIFTY = 50;
const FORKS = 20;

export const submitOne: Section = {
  name: 'submit-one',
  what: '`true` on one node, against ssh and Ansible',
  run: async (context) => {
    await using one = await startBenchFleet({ nodes: 1 });
    const folder = join(one.fleet.folder, 'ssh');
    mkdirSync(folder, { mode: 0o700 });
    const env = cleanEnv(folder);
    await using ssh = await startOpenSsh(folder, 1, env);
    const user = userInfo().username;
    const ansible = ansibleOver(ssh, folder, { hosts: 1, forks: 5, user, env });
    const submit = async () => (await runProcess([aegis, 'submit', '--target', 'web-1', '--', 'true'], one.cliEnv)).ms;
    const direct = await alternately(times(context, 25, 4), {
      aegis: submit,
      ssh: async () => (await runProcess(sshArgv(ssh, user, ['true']), env)).ms,
    });
    const scripted = await alternately(times(context, 8, 2), {
      aegis: submit,
      cold: () => ansible.run('cold'),
      again: submit,
      warm: () => ansible.run('warm'),
    });
    await ansible.end();
    const both = [...scripted.aegis, ...scripted.again];
    return [
      figure('submit-one', { name: 'ssh HOST true', unit: 'ms', samples: direct.ssh }),
      figure('submit-one', {
        name: 'aegis submit -- true',
        unit: 'ms',
        samples: direct.aegis,
        comparedWith: { name: 'ssh', samples: direct.ssh },
        bar: atMost(0.5, 'ratio'),
      }),
      figure('submit-one', { name: 'ansible -m raw -a true', unit: 'ms', samples: scripted.cold }),
      figure('submit-one', {
        name: 'aegis submit -- true',
        unit: 'ms',
        samples: both,
        comparedWith: { name: 'ansible', samples: scripted.cold },
        bar: atMost(0.2, 'ratio'),
      }),
      figure('submit-one', {
        name: 'ansible again, on the connections of the last run',
        unit: 'ms',
        samples: scripted.warm,
        note: `within the 60 s that Ansible keeps them; aegis submit is ${(median(both) / median(scripted.warm)).toFixed(2)} × that`,
      }),
    ];
  },
};

export const submitFifty: Section = {
  name: 'submit-fifty',
  what: '`true` on fifty nodes, against Ansible with 20 forks',
  run: async (context) => {
    context.say(`starting ${FIFTY} daemons`);
    await using fifty = await startBenchFleet({ nodes: FIFTY });
    const folder = join(fifty.fleet.folder, 'ssh');
    mkdirSync(folder, { mode: 0o700 });
    const env = cleanEnv(folder);
    await using ssh = await startOpenSsh(folder, FIFTY, env);
    const ansible = ansibleOver(ssh, folder, { hosts: FIFTY, forks: FORKS, user: userInfo().username, env });
    const submit = async () => (await runProcess([aegis, 'submit', '--target', 'all', '--', 'true'], fifty.cliEnv)).ms;
    const taken = await alternately(times(context, 5, 1), {
      aegis: submit,
      cold: () => ansible.run('cold'),
      again: submit,
      warm: () => ansible.run('warm'),
    });
    await ansible.end();
    const both = [...taken.aegis, ...taken.again];
    return [
      figure('submit-fifty', { name: 'ansible, 50 hosts, 20 forks', unit: 'ms', samples: taken.cold }),
      figure('submit-fifty', {
        name: 'aegis submit --target all -- true',
        unit: 'ms',
        samples: both,
        comparedWith: { name: 'ansible', samples: taken.cold },
        bar: atMost(0.15, 'ratio'),
      }),
      figure('submit-fifty', {
        name: 'ansible again, on the connections of the last run',
        unit: 'ms',
        samples: taken.warm,
        note: `aegis submit is ${(median(both) / median(taken.warm)).toFixed(2)} × that`,
      }),
    ];
  },
};
