# Sourced by the scripts in this folder: packages on demand, and the toolchain for bare-metal targets.
# shellcheck shell=bash
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

# Installs the Debian/Ubuntu packages that are lacking and says which; silent and quick when none is.
need_packages() {
    local missing=() name
    for name in "$@"; do
        dpkg-query -W -f '${Status}' "$name" 2>/dev/null | grep -q 'ok installed' || missing+=("$name")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null || die "packages needed, and no apt-get here: ${missing[*]}"
    [ "$(id -u)" = 0 ] || die "packages needed; run as root: apt-get install ${missing[*]}"
    say "installing packages: ${missing[*]}"
    # Two of these scripts may run at once, or a first-boot upgrade holds the lock: wait for it.
    apt-get -qq -o DPkg::Lock::Timeout=300 update >/dev/null || say "warning: package lists not refreshed"
    DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends -o DPkg::Lock::Timeout=300 \
        install "${missing[@]}" >/dev/null || die "could not install: ${missing[*]}"
}

# Chooses how a bare-metal target is built; afterwards `bare_cargo build ...` does it.
#
# An installed rustup target brings a ready `core` and its own linker. Otherwise the distribution's newer
# toolchain builds `core` from source: then there is no `alloc` crate at all, so whatever wants an allocator
# cannot even compile.
choose_bare_toolchain() {
    local target=$1 variable
    variable=CARGO_TARGET_$(printf '%s' "$target" | tr 'a-z-' 'A-Z_')
    # SHA-512 unrolled is 27 KB of code, rolled 3 KB; it only runs when a signature is checked.
    BARE_ENV=("${variable}_RUSTFLAGS=--cfg sha2_backend_soft=\"compact\"")
    if command -v rustup >/dev/null && rustup target list --installed 2>/dev/null | grep -qx "$target"; then
        BARE_ENV+=("${variable}_LINKER=rust-lld")
        BARE_CARGO=cargo
        BARE_ARGS=()
    else
        need_packages rustc-web cargo-web rust-web-src lld-19
        BARE_ENV+=("${variable}_LINKER=/usr/bin/ld.lld-19" RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1 PATH="/usr/bin:$PATH")
        BARE_CARGO=/usr/bin/cargo
        BARE_ARGS=(-Zbuild-std=core)
    fi
    BARE_ARGS+=(--target "$target")
}

# The cargo of choose_bare_toolchain. Flags that callers carry for their own host must not reach a board.
bare_cargo() {
    local command=$1
    shift
    env -u RUSTFLAGS -u CARGO_ENCODED_RUSTFLAGS -u RUSTUP_TOOLCHAIN "${BARE_ENV[@]}" \
        "$BARE_CARGO" "$command" "${BARE_ARGS[@]}" "$@"
}
