#!/usr/bin/env bash
# Fetches the tunnels that `make bench` compares with into DIRECTORY/bin, those that are missing only: boringtun-cli by
# cargo; wireguard-go as the lab does.
set -euo pipefail
mkdir -p "${1:?usage: rivals.sh DIRECTORY}/bin"
directory=$(realpath "$1")

if [ ! -x "$directory/bin/boringtun-cli" ]; then
  echo "installing: boringtun-cli (a minute)"
  cargo install --quiet --locked --root "$directory" boringtun-cli
fi
"$(dirname "$0")/../lab/wireguard-go.sh" "$directory"
