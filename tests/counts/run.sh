#!/usr/bin/env bash
# Counts the core's instructions per packet under callgrind and holds them to tests/counts/baseline.txt; `run.sh accept`
# writes that file instead, `run.sh growth` prints those of larger and smaller sites (minutes). Installs what it lacks:
# valgrind, the runner of gungraun, the compiler of the baseline.
#
# Counts are those of one compiler, named in the baseline. Another processor counts the same, if it has AVX2: callgrind
# shows programs the same x86-64 processor on all of these.
set -euo pipefail
cd "$(dirname "$0")/../.."
baseline=tests/counts/baseline.txt

if [ "$(uname -m)" != x86_64 ] || ! grep -qw avx2 /proc/cpuinfo; then
  echo "instructions not counted: the baseline is of x86-64 with AVX2"
  exit 0
fi
tests/lab/packages.sh valgrind:valgrind

version=$(cargo pkgid gungraun | sed 's/.*[@#]//')
runner=target/tools/bin/gungraun-runner
if [ "$("$runner" --version 2>/dev/null | grep -o '[0-9.]*$')" != "$version" ]; then
  echo "installing: gungraun-runner $version (minutes)"
  # It only starts valgrind and reads what that writes: not worth optimising.
  cargo install --quiet --locked --debug --root target/tools --version "$version" gungraun-runner
fi

has() { rustc -V | cut -d' ' -f2; }
if [ "${1:-}" != accept ]; then
  wanted=$(sed -n 's/^# rustc //p' "$baseline")
  if [ "$(has)" != "$wanted" ]; then
    command -v rustup >/dev/null || { echo "counts need rustc $wanted, which is not here, nor is rustup" >&2; exit 1; }
    if ! rustup run "$wanted" rustc -V >/dev/null 2>&1; then
      echo "installing: rustc $wanted"
      rustup toolchain install --profile minimal "$wanted" >/dev/null 2>&1
    fi
    export RUSTUP_TOOLCHAIN=$wanted
  fi
fi

what=${1:-compare}
bench=packets
[ "$what" != growth ] || bench=growth
rm -rf target/gungraun
# The runner is found by this when it runs; an absolute path of it in the binary would be another build for each place.
summaries=$(PATH="$PWD/target/tools/bin:$PATH" \
  cargo bench --quiet -p edgemesh-counts --bench "$bench" -- --output-format=json)
counts() { cargo run --quiet --release -p edgemesh-counts -- "$@" <<<"$summaries"; }
case $what in
  accept)
    {
      echo "# Instructions for one call, under callgrind on x86-64 with AVX2: \`make counts\` holds them to +-2 %."
      echo "# What changes them on purpose changes this file, by \`make counts-accept\`, and says why."
      echo "# rustc $(has)"
      counts format
    } >"$baseline.new"
    mv "$baseline.new" "$baseline"
    cat "$baseline"
    ;;
  growth) counts format ;;
  *)
    if ! counts compare "$baseline"; then
      echo "if that is on purpose: make counts-accept, and say why in the commit" >&2
      exit 1
    fi
    ;;
esac
