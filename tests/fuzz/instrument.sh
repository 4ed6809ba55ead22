#!/bin/sh
# As RUSTC_WRAPPER: gives our own crates the coverage counters that libFuzzer reads, as cargo-fuzz does. They are LLVM
# options of the stable compiler; no sanitizer is wanted where `unsafe` is forbidden or a handful of system calls.
rustc=$1
shift
case " $* " in
*" --crate-name edgemesh_"*" --crate-type lib "* | *" --crate-name edgemesh_"*"/src/lib.rs"*)
  exec "$rustc" "$@" -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 ;;
*) exec "$rustc" "$@" ;;
esac
