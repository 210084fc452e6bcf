#!/bin/sh
# Builds the addon into build/Release when its sources are newer. Needs make, g++, python3 and libbpf's headers. Elsewhere than on Linux,
# or without those headers, nothing is built and all else of Aegis works: the loader says so when it is called.
set -eu
cd "$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)"
if [ "$(uname -s)" != Linux ]; then
  echo "bpf-loader: eBPF is Linux's; nothing is built here."
  exit 0
fi
if ! echo '#include <bpf/libbpf.h>' | "${CXX:-g++}" -x c++ -fsyntax-only - 2>/dev/null; then
  echo "bpf-loader: not built, because libbpf's headers are missing (Debian: libbpf-dev, libelf-dev, zlib1g-dev)." >&2
  exit 0
fi
sh ../../tools/build-addon.sh aegis_bpf --jobs=max
