#!/usr/bin/env bash
# as-user.sh BINARIES WORDS..: runs `edgemesh-lab WORDS..` as somebody who is not root, on a machine as distributions
# set it up, where /dev/net/tun is open to all. Root becomes nobody for it; whoever is not root stays who they are.
#
# What root changes for it (the mode of the device, a way to the binaries that does not lead through somebody's home
# directory) is changed in a mount namespace of its own and ends with the run.
set -euo pipefail

binaries=$(cd "$1" && pwd)
shift
[ "$(id -u)" = 0 ] || exec "$binaries/edgemesh-lab" "$@"

[ -c /dev/net/tun ] || { echo "no /dev/net/tun: load the module (modprobe tun)" >&2; exit 1; }
# A name that `edgemesh-lab cleanup` knows.
files=${TMPDIR:-/tmp}/edgemesh-lab-$$
mkdir "$files"

world='
  set -euo pipefail
  binaries=$1 files=$2
  shift 2
  mount -t tmpfs -o mode=755 tmpfs /mnt
  mkdir /mnt/bin /mnt/files
  mount --bind "$binaries" /mnt/bin
  mount --bind "$files" /mnt/files
  chown 65534:65534 /mnt/files
  mknod -m 0666 /mnt/tun c 10 200
  mount --bind /mnt/tun /dev/net/tun
  cd /mnt/files
  exec setpriv --reuid=65534 --regid=65534 --clear-groups \
    env -u EDGEMESH_BIN_DIR HOME=/mnt/files TMPDIR=/mnt/files /mnt/bin/edgemesh-lab "$@"
'
if unshare --mount --propagation private bash -c "$world" as-user "$binaries" "$files" "$@"; then
  rm -rf "$files"
else
  code=$?
  echo "/mnt/files was $files" >&2
  exit "$code"
fi
