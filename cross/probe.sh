#!/usr/bin/env bash
# Builds boards/probe, runs it under QEMU, and holds the image against its budgets.
# The image checks answers, stack and memory itself; here are the checks that need the ELF file.
set -euo pipefail
. "$(dirname "$0")/common.sh"

TARGET=thumbv7m-none-eabi
FLASH_BUDGET=$((256 * 1024))
RUN_LIMIT=120 # seconds; a run takes one or two

need_packages qemu-system-arm binutils
choose_bare_toolchain "$TARGET"
BOARD=$ROOT/platform-gateway/boards/probe
export CARGO_TARGET_DIR=$ROOT/target/boards
bare_cargo build --manifest-path "$BOARD/Cargo.toml" --quiet ${CI:+--locked} --release
IMAGE=$CARGO_TARGET_DIR/$TARGET/release/edgemesh-probe

# A section takes flash when it is loaded (A) and has contents: its size and type columns are counted from the
# end of the name, which may hold no blank.
flash=$(readelf -SW "$IMAGE" | sed -n 's/^ *\[ *[0-9]*\] *//p' |
    awk '$2 != "NOBITS" && $2 != "NULL" && $7 ~ /A/ { print $5 }' |
    { total=0; while read -r size; do total=$((total + 16#$size)); done; echo "$total"; })
echo "flash: $flash B of $FLASH_BUDGET B"
[ "$flash" -gt 0 ] || die "no loaded section found in $IMAGE"
[ "$flash" -le "$FLASH_BUDGET" ] || die "the image does not fit the flash budget"

# Symbols of any allocator: the __rust_alloc family, the error handler, C's, and everything in crate alloc.
symbols=$(readelf -sW "$IMAGE" | awk '{ print $8 }')
[ "$(printf '%s\n' "$symbols" | grep -c .)" -gt 10 ] || die "the image has no symbol table to check"
if found=$(printf '%s\n' "$symbols" | grep -E '__rust_alloc|__rust_realloc|__rust_dealloc|__rg_|__rdl_|rust_oom|^(malloc|calloc|realloc|free)$|_ZN5alloc|^_R.*C[a-zA-Z0-9_]*5alloc'); then
    die "allocator symbols in the image: $found"
fi
echo "allocator symbols: none"

log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0
timeout "$RUN_LIMIT" qemu-system-arm -M lm3s6965evb -nographic -monitor none -serial null -nic none \
    -icount shift=0 -semihosting-config enable=on,target=native -kernel "$IMAGE" </dev/null >"$log" 2>&1 ||
    status=$?
grep -vE 'Timer with period zero, disabling|has no peer' "$log" || true
[ "$status" != 124 ] || die "the image did not finish within $RUN_LIMIT s"
[ "$status" = 0 ] || die "the probe failed (exit $status)"
grep -qE '^probe: ([0-9]+) of \1 steps passed$' "$log" || die "the probe did not report its steps"
