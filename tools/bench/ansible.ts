import { mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { OpenSsh } from './openssh.ts';
import { runProcess } from './stopwatch.ts';

/** Debian's Ansible over our sshd, as its users run it: connections shared for 60 s (its default), one per host. */
export interface Ansible {
  /** Milliseconds of `ansible all -m raw -a true`. `cold`: no connection is left from an earlier run. */
  run(how: 'cold' | 'warm'): Promise<number>;
  end(): Promise<void>;
}

export const ansibleOver = (
  ssh: OpenSsh,
  folder: string,
  options: { hosts: number; forks: number; user: string; env: Readonly<Record<string, string>> },
): Ansible => {
  const name = `a${options.hosts}`;
  const inventory = join(folder, `${name}.ini`);
  const sockets = join(folder, name); // short: a socket's path has at most 107 bytes
  mkdirSync(sockets, { mode: 0o700 });
  const facts = [
    `ansible_port=${ssh.port}`,
    `ansible_user=${options.user}`,
    `ansible_ssh_private_key_file=${ssh.identity}`,
    `ansible_ssh_common_args='${ssh.options.join(' ')}'`,
  ].join(' ');
  const hosts = ssh.addresses
    .slice(0, options.hosts)
    .map((address, index) => `h${index + 1} ansible_host=${address} ${facts}`);
  writeFileSync(inventory, `${hosts.join('\n')}\n`);
  const config = join(folder, `${name}.cfg`);
  writeFileSync(config, `[defaults]\ninventory = ${inventory}\n`); // ours, so that no other ansible.cfg is found

  const env = {
    ...options.env,
    ANSIBLE_CONFIG: config,
    ANSIBLE_SSH_CONTROL_PATH_DIR: sockets,
    ANSIBLE_LOCAL_TEMP: join(folder, 'ansible-tmp'),
    ANSIBLE_NOCOLOR: '1',
  };
  const end = async (): Promise<void> => {
    for (const socket of readdirSync(sockets))
      await runProcess(['ssh', '-F', 'none', '-S', join(sockets, socket), '-O', 'exit', 'ignored'], env);
  };
  return {
    run: async (how) => {
      if (how === 'cold') await end();
      const { ms, stdout } = await runProcess(
        ['ansible', 'all', '-m', 'raw', '-a', 'true', '-f', String(options.forks)],
        env,
      );
      const reached = stdout.match(/ \| CHANGED \| rc=0 /g)?.length ?? 0;
      if (reached !== options.hosts)
        throw new Error(`ansible reached ${reached} of ${options.hosts} hosts:\n${stdout}`);
      return ms;
    },
    end,
  };
};
