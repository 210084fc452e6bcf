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
root=$(CDPATH= cd -- ../.. && pwd)
node=$(command -v node)
case "$(uname -m)" in aarch64 | arm64) arch=arm64 ;; *) arch=x64 ;; esac
nodedir=$root/.toolchain/node_modules/node-linux-$arch
if [ -x "$nodedir/bin/node" ]; then
  node=$nodedir/bin/node
else
  nodedir=$(dirname -- "$(dirname -- "$("$node" -p process.execPath)")")
fi
PATH=$(dirname -- "$node"):$PATH
export PATH

addon=build/Release/aegis_bpf.node
stamp=build/Release/.addon-built-with
with="$("$node" -p 'process.version + " " + process.arch + " " + process.versions.modules')"
if [ -f "$addon" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$with" ] && [ -z "$(find addon binding.gyp build.sh -newer "$addon" -type f)" ]; then
  exit 0
fi
if [ ! -f "$nodedir/include/node/node_api.h" ]; then
  echo "The headers of Node.js are missing under $nodedir/include/node: run bin/setup." >&2
  exit 1
fi
"$node" "$root/node_modules/node-gyp/bin/node-gyp.js" configure build --silent --jobs=max --nodedir="$nodedir"
touch "$addon"
echo "$with" >"$stamp"
