#!/bin/sh
# Builds aegis-exec and the addon into build/Release when their sources are newer. Needs make, g++ and python3.
set -eu
cd "$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)"
make --silent all
sh ../../tools/build-addon.sh aegis_native
