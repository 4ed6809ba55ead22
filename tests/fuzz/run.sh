#!/usr/bin/env bash
# Runs one fuzz target for a while: TARGET SECONDS. What it finds and where it has come is kept in target/fuzz.
# With MINIMISE=1 the smallest inputs that reach all that was reached become the committed corpus.
set -euo pipefail
cd "$(dirname "$0")/../.."
target=${1:-} seconds=${2:-60}
tests/lab/packages.sh g++:g++

# Our own crates are given coverage counters, in a directory of their own.
export CARGO_TARGET_DIR=$PWD/target/fuzz RUSTC_WRAPPER=$PWD/tests/fuzz/instrument.sh
cargo build --quiet --release --manifest-path tests/fuzz/driver/Cargo.toml
driver=$CARGO_TARGET_DIR/release/edgemesh-fuzz-driver
export TARGET=$target
known=tests/fuzz/corpus/$target reached=$CARGO_TARGET_DIR/reached/$target found=$CARGO_TARGET_DIR/found
if [ ! -d "$known" ]; then
  echo "TARGET=\"$target\" is no target; accepted: $(ls tests/fuzz/corpus | tr '\n' ' ')" >&2
  exit 2
fi
mkdir -p "$reached" "$found"
if [ -n "${MINIMISE:-}" ]; then
  rm -rf "$reached.small"
  mkdir "$reached.small"
  "$driver" -merge=1 -max_len=4096 "$reached.small" "$reached" "$known" 2>&1 | tail -1
  rm -rf "$known"
  mv "$reached.small" "$known"
  exit
fi
if ! "$driver" -max_total_time="$seconds" -max_len=4096 -timeout=20 -print_final_stats=1 \
  -artifact_prefix="$found/$target." "$reached" "$known"; then
  echo "found something: it is in $found; fix it and keep it as tests/fuzz/regressions/$target.WHAT-WAS-WRONG" >&2
  exit 1
fi
