#!/usr/bin/env bash
# Fetches wireguard-go into DIRECTORY/bin, unless it is there: from Debian's unstable suite, because the one in Debian
# 12 is of 2022 and much slower. For that, apt gets directories of its own and the machine's own configured mirror:
# nothing is installed, and the machine's own package lists stay as they are. Where no Debian mirror is configured it is
# the machine's own package of that name. DIRECTORY/bin/wireguard-go.version says which it is.
set -euo pipefail
mkdir -p "${1:?usage: wireguard-go.sh DIRECTORY}/bin"
bin=$(realpath "$1/bin")
[ ! -x "$bin/wireguard-go" ] || exit 0
command -v apt-get >/dev/null || { echo "no apt-get here; put wireguard-go at $bin/wireguard-go" >&2; exit 1; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' |
  sort -u | head -n 1)
options=(-o "Dir::Cache=$work/cache" -o APT::Sandbox::User=root)
if [ -n "$mirror" ]; then
  echo "fetching: wireguard-go of Debian unstable"
  keys=/usr/share/keyrings/debian-archive-keyring.gpg
  echo "deb [signed-by=$keys] $mirror unstable main" >"$work/sources.list"
  options+=(
    -o "Dir::Etc::SourceList=$work/sources.list" -o Dir::Etc::SourceParts=/dev/null -o "Dir::State::Lists=$work/lists"
    -o Acquire::Languages=none
  )
else
  echo "fetching: wireguard-go of this system"
fi
fetch() {
  [ -z "$mirror" ] || apt-get "${options[@]}" -qq update || return
  (cd "$work" && apt-get "${options[@]}" -qq download wireguard-go)
}
# The suite changes several times a day; while a mirror does, lists and packages do not fit together.
fetch || { echo "once more in a minute" >&2; sleep 60; fetch; }
dpkg -x "$work"/wireguard-go_*.deb "$work/unpacked"
echo "wireguard-go $(dpkg-deb -f "$work"/wireguard-go_*.deb Version)" >"$bin/wireguard-go.version"
# Last, and at once: what is there is whole.
cp "$work/unpacked/usr/bin/wireguard-go" "$bin/wireguard-go.new"
mv "$bin/wireguard-go.new" "$bin/wireguard-go"
