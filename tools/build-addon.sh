#!/bin/sh
# Builds the addon of binding.gyp into build/Release when its sources are newer, or another Node.js built it. Called by a package's
# build.sh, in the package's folder. usage: build-addon.sh NAME [options of node-gyp]
set -eu
tools=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
root=$(dirname -- "$tools")
node=$("$root/bin/node-path")
nodedir=$(dirname -- "$(dirname -- "$("$node" -p process.execPath)")")
PATH=$(dirname -- "$node"):$PATH
export PATH

addon=build/Release/$1.node
shift
stamp=build/Release/.addon-built-with
with="$("$node" -p 'process.version + " " + process.arch + " " + process.versions.modules')"
if [ -f "$addon" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$with" ] &&
  [ -z "$(find addon binding.gyp build.sh "$tools/build-addon.sh" -newer "$addon" -type f)" ]; then
  exit 0
fi
if [ ! -f "$nodedir/include/node/node_api.h" ]; then
  echo "The headers of Node.js are missing under $nodedir/include/node: run bin/setup." >&2
  exit 1
fi
# `configure build` rather than `rebuild`, which would remove what else is in the same folder.
"$node" "$root/node_modules/node-gyp/bin/node-gyp.js" configure build --silent "$@" --nodedir="$nodedir"
touch "$addon"
echo "$with" >"$stamp"
