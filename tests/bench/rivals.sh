#!/usr/bin/env bash
# Fetches the tunnels that `make bench` compares with into DIRECTORY/bin, those that are missing only:
# boringtun-cli by cargo; wireguard-go from Debian's unstable suite, because the one in Debian 12 is of 2022 and much
# slower. For that, apt gets directories of its own and the machine's own configured mirror: nothing is installed,
# and the machine's own package lists stay as they are. Where there is no Debian mirror, wireguard-go is left out.
set -euo pipefail
mkdir -p "${1:?usage: rivals.sh DIRECTORY}/bin"
directory=$(realpath "$1")

if [ ! -x "$directory/bin/boringtun-cli" ]; then
  echo "installing: boringtun-cli (a minute)"
  cargo install --quiet --locked --root "$directory" boringtun-cli
fi

[ ! -x "$directory/bin/wireguard-go" ] || exit 0
mirror=""
if command -v apt-get >/dev/null; then
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' |
    sort -u | head -n 1)
fi
if [ -z "$mirror" ]; then
  echo "no Debian mirror is configured here: no wireguard-go to compare with" >&2
  exit 0
fi
echo "fetching: wireguard-go of Debian unstable"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
keys=/usr/share/keyrings/debian-archive-keyring.gpg
echo "deb [signed-by=$keys] $mirror unstable main" >"$work/sources.list"
options=(
  -o "Dir::Etc::SourceList=$work/sources.list" -o Dir::Etc::SourceParts=/dev/null
  -o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work/cache" -o APT::Sandbox::User=root
  -o Acquire::Languages=none
)
apt-get "${options[@]}" -qq update
(cd "$work" && apt-get "${options[@]}" -qq download wireguard-go)
dpkg -x "$work"/wireguard-go_*.deb "$work/unpacked"
echo "wireguard-go $(dpkg-deb -f "$work"/wireguard-go_*.deb Version)" >"$directory/bin/wireguard-go.version"
cp "$work/unpacked/usr/bin/wireguard-go" "$directory/bin/wireguard-go"
