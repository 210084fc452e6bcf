#!/bin/sh
# Installs the Aegis that bin/setup built: /usr/lib/aegis, /usr/bin/aegis, the systemd units and the server's user. Starts nothing, and
# leaves /etc/aegis and /var/lib/aegis alone. Run it again to upgrade; docs/operating.md says how to go on.
#   deploy/install.sh                   on this machine, as root
#   deploy/install.sh --destdir DIR     below DIR: an image, a package, a tar for the nodes
set -eu
umask 022
root=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
destdir=
case "${1:-}" in
  '') ;;
  --destdir) destdir=${2:?a folder is missing after --destdir} ;;
  *) echo "usage: deploy/install.sh [--destdir DIR]" >&2; exit 2 ;;
esac
[ -f "$root/packages/cli/dist/aegis.cjs" ] && [ -x "$root/packages/native/build/Release/aegis-exec" ] || { echo "Aegis is not built yet; run bin/setup." >&2; exit 1; }
case "$(uname -m)" in aarch64 | arm64) arch=arm64 ;; *) arch=x64 ;; esac

# Made whole beside the old one and moved into its place: what runs keeps its files, nothing ever meets half an installation.
lib=$destdir/usr/lib/aegis
new=$lib.new
rm -rf "$new"
put() { # MODE FILE... FOLDER-BELOW-NEW
  mode=$1
  shift
  for into; do :; done
  install -d -m 0755 "$new/$into"
  while [ $# -gt 1 ]; do
    install -m "$mode" "$1" "$new/$into/"
    shift
  done
}
put 0755 "$root/bin/aegis" "$root/bin/node-path" bin
put 0644 "$root"/packages/cli/dist/*.*js packages/cli/dist
put 0755 "$root/packages/native/build/Release/aegis-exec" "$root/packages/native/build/Release/aegis_native.node" packages/cli/dist
# The eBPF loader: built where libbpf is. Nodes need its library (Debian, Ubuntu: libbpf1).
bpf=$root/packages/bpf-loader/build/Release/aegis_bpf.node
if [ -f "$bpf" ]; then put 0755 "$bpf" packages/cli/dist; else echo "without the eBPF loader: bin/setup did not build it here" >&2; fi
sqlite=node_modules/better-sqlite3
put 0644 "$root/$sqlite/package.json" "$root/$sqlite/LICENSE" "$sqlite"
put 0644 "$root/$sqlite"/lib/*.js "$sqlite/lib"
put 0644 "$root/$sqlite"/lib/methods/*.js "$sqlite/lib/methods"
put 0644 "$root/$sqlite/prebuilds/linux-$arch.node" "$sqlite/prebuilds"
node=.toolchain/node_modules/node-linux-$arch/bin
[ ! -x "$root/$node/node" ] || put 0755 "$root/$node/node" "$node"
put 0644 "$root/LICENSE" "$root/deploy/server.toml" "$root/deploy/daemon.toml" "$root"/docs/*.md docs

rm -rf "$lib.old"
[ ! -e "$lib" ] || mv "$lib" "$lib.old"
mv "$new" "$lib"
rm -rf "$lib.old"
install -d -m 0755 "$destdir/usr/bin" "$destdir/usr/lib/systemd/system" "$destdir/usr/lib/sysusers.d" "$destdir/usr/lib/tmpfiles.d"
ln -sfn ../lib/aegis/bin/aegis "$destdir/usr/bin/aegis"
install -m 0644 "$root"/deploy/systemd/*.service "$destdir/usr/lib/systemd/system/"
install -m 0644 "$root/deploy/sysusers.d/aegis.conf" "$destdir/usr/lib/sysusers.d/"
install -m 0644 "$root/deploy/tmpfiles.d/aegis.conf" "$destdir/usr/lib/tmpfiles.d/"

if [ -z "$destdir" ] && [ -d /run/systemd/system ]; then
  systemd-sysusers aegis.conf
  systemd-tmpfiles --create aegis.conf
  systemctl daemon-reload
fi
echo "installed $("$lib/bin/aegis" --version) below ${destdir:-/}"
