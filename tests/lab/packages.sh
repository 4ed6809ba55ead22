#!/usr/bin/env bash
# Installs the Debian/Ubuntu packages that the lab's programs come from, those that are missing only.
# Says which; does nothing and says nothing when all are there. Whoever is not root and has no sudo is told what to
# install. Arguments are further ones, as command:package.
set -euo pipefail

# command:package
needed=(
  ip:iproute2 nft:nftables iptables:iptables nginx:nginx curl:curl iperf3:iperf3 dig:bind9-dnsutils
  ncat:ncat socat:socat ethtool:ethtool conntrack:conntrack ping:iputils-ping busybox:busybox
  redis-server:redis-server delv:bind9-dnsutils gcore:gdb "$@"
)
PATH="$PATH:/usr/sbin:/sbin"
missing=()
for entry in "${needed[@]}"; do
  command -v "${entry%%:*}" >/dev/null || missing+=("${entry##*:}")
done
[ ${#missing[@]} -gt 0 ] || exit 0

command -v apt-get >/dev/null || { echo "no apt-get here; install by hand: ${missing[*]}" >&2; exit 1; }
as_root=()
if [ "$(id -u)" != 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "packages are missing; run as root: apt-get install ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi
echo "installing: ${missing[*]}"

# The lab runs its own servers in its own namespaces; the machine must not get any.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
  "${as_root[@]}" chmod 755 "$policy"
  trap '"${as_root[@]}" rm -f "$policy"' EXIT
fi
# A first-boot upgrade may hold the lock: wait for it. Old lists may be good enough.
apt() { "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 "$@" >/dev/null; }
apt update || echo "warning: package lists not refreshed" >&2
apt install -y --no-install-recommends "${missing[@]}"
for server in nginx redis-server knot unbound; do
  case " ${missing[*]} " in
    *" $server "*) "${as_root[@]}" systemctl disable "$server" >/dev/null 2>&1 || true ;;
  esac
done
