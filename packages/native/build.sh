#!/bin/sh
# Builds aegis-exec and the addon into build/Release when their sources are newer. Needs make, g++ and python3.
set -eu
cd "$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)"
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

make --silent all
addon=build/Release/aegis_native.node
stamp=build/Release/.addon-built-with
with="$("$node" -p 'process.version + " " + process.arch + " " + process.versions.modules')"
if [ -f "$addon" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$with" ] && [ -z "$(find addon binding.gyp build.sh -newer "$addon" -type f)" ]; then
  exit 0
fi
if [ ! -f "$nodedir/include/node/node_api.h" ]; then
  echo "The headers of Node.js are missing under $nodedir/include/node: run bin/setup." >&2
  exit 1
fi
# `configure build` rather than `rebuild`, which would remove aegis-exec from the same folder.
"$node" "$root/node_modules/node-gyp/bin/node-gyp.js" configure build --silent --nodedir="$nodedir"
touch "$addon"
echo "$with" >"$stamp"
