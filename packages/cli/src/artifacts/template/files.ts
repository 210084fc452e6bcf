import { manifestSchema } from '@aegis/protocol/artifacts/manifest-schema';
import { CGROUP_SKB, TC, TRACEPOINT, XDP } from './programs.ts';

/** The files of a new artifact, by its kind. */

export const TEMPLATE_KINDS = ['tc', 'xdp', 'cgroup_skb', 'tracepoint'] as const;
export type TemplateKind = (typeof TEMPLATE_KINDS)[number];

interface Template {
  source: string;
  description: string;
  manifest: Readonly<Record<string, unknown>>;
  /** How to see that it works, for the README. */
  tryOut: string;
}

const program = (attach: object) => [{ name: 'drop_icmp', attach }];
const DROPPING = {
  type: 'policy',
  constants: [{ name: 'target_ip', type: 'ipv4', value: '192.0.2.1', settable: true, description: 'The address' }],
  maps: [{ name: 'dropped', keep: true }],
};
const metadata = (direction: string) => ({ policy_type: 'block', protocol: 'icmp', direction });
const PING = `    aegis assign --wait --set target_ip=192.0.2.9 NAME NODE
    aegis artifacts maps NAME --node NODE dropped     # how many it has dropped`;

const TEMPLATES: Readonly<Record<TemplateKind, Template>> = {
  tc: {
    source: TC,
    description: 'Drops ICMP to one address as it leaves an interface',
    manifest: {
      ...DROPPING,
      metadata: metadata('egress'),
      programs: program({ kind: 'tc', interface: 'default-route', direction: 'egress' }),
    },
    tryOut: PING,
  },
  xdp: {
    source: XDP,
    description: 'Drops ICMP from one address as it comes into an interface',
    manifest: {
      ...DROPPING,
      metadata: metadata('ingress'),
      programs: program({ kind: 'xdp', interface: 'default-route' }),
    },
    tryOut: PING,
  },
  cgroup_skb: {
    source: CGROUP_SKB,
    description: 'Drops ICMP to one address that the processes of a cgroup send',
    manifest: {
      ...DROPPING,
      metadata: metadata('egress'),
      programs: program({ kind: 'cgroup_skb', cgroup: '/', direction: 'egress' }),
    },
    tryOut: PING,
  },
  tracepoint: {
    source: TRACEPOINT,
    description: 'Tells of every program that is started',
    manifest: {
      type: 'probe',
      metadata: {},
      programs: [{ name: 'on_exec', attach: { kind: 'tracepoint', category: 'sched', name: 'sched_process_exec' } }],
      constants: [
        { name: 'only_uid', type: 'u32', value: 4294967295, settable: true, description: '4294967295: everyone' },
      ],
      maps: [{ name: 'started_by_uid', keep: true }],
    },
    tryOut: `    aegis assign --wait NAME NODE
    aegis artifacts events NAME --node NODE           # a line for each program that starts, until Ctrl-C
    aegis artifacts maps NAME --node NODE started_by_uid`,
  },
};

const MAKEFILE = `# Builds every *.bpf.c here. Debian: apt-get install clang libbpf-dev linux-libc-dev make
CLANG ?= clang
# asm/types.h lies in the machine's own folder, where a compiler for another target does not look.
INCLUDES := $(addprefix -I,$(wildcard /usr/include/$(shell uname -m)-linux-gnu))
# -O2 and -g are needed: the verifier takes no unoptimised code, and types (BTF) come with the debugging information. The prefix map keeps
# this folder's name out of the object, so that the same source gives the same bytes anywhere.
CFLAGS := -O2 -g -Wall -Wextra -target bpf -ffile-prefix-map=$(CURDIR)=. $(INCLUDES)

OBJECTS := $(patsubst %.c,%.o,$(wildcard *.bpf.c))

all: $(OBJECTS)

%.bpf.o: %.bpf.c
	$(CLANG) $(CFLAGS) -c $< -o $@

clean:
	rm -f $(OBJECTS)

.PHONY: all clean
`;

const readme = (name: string, file: string, { description, tryOut }: Template): string => `# ${name}

${description}. What it does stands in \`${file}.bpf.c\`; what it is called, where it is attached and what may be set stands in
\`aegis.json\` (editors check it against \`aegis.schema.json\`).

    make                                              # ${file}.bpf.o
    aegis artifacts pack                              # ${name}-1.0.0.tar.zst
    aegis artifacts inspect ${name}-1.0.0.tar.zst
    aegis artifacts sign ${name}-1.0.0.tar.zst --key KEY.key
    aegis artifacts push ${name}-1.0.0.tar.zst

On nodes:

${tryOut.replaceAll(' NAME ', ` ${name} `)}
    aegis artifacts status ${name}
    aegis unassign ${name} NODE

For the next version change \`version\` in \`aegis.json\`, build, pack, sign and push again, and assign it: nodes change over without a gap, and maps
with \`"keep": true\` keep their contents. \`aegis assign ${name}@1.0.0 NODE\` goes back.
`;

export const SCHEMA_FILE = 'aegis.schema.json';

/** @param name a valid artifact name */
export const templateFiles = (name: string, kind: TemplateKind): ReadonlyMap<string, string> => {
  const template = TEMPLATES[kind];
  const file = name.replaceAll(/[^a-z0-9]+/g, '_');
  const manifest = {
    $schema: `./${SCHEMA_FILE}`,
    format: 'aegis-artifact-1',
    name,
    version: '1.0.0',
    description: template.description,
    kernel_version: '5.15',
    tags: [],
    objects: [{ file: `${file}.bpf.o` }],
    ...template.manifest,
  };
  return new Map([
    [`${file}.bpf.c`, template.source],
    ['aegis.json', `${JSON.stringify(manifest, null, 2)}\n`],
    [SCHEMA_FILE, `${JSON.stringify(manifestSchema(), null, 2)}\n`],
    ['Makefile', MAKEFILE],
    ['README.md', readme(name, file, template)],
    ['.gitignore', '*.bpf.o\n*.tar.zst\n*.minisig\n'],
  ]);
};
