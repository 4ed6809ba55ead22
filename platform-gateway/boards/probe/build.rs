//! Hands the linker its scripts. As build-script output rather than RUSTFLAGS: changing those rebuilds `core`.

use std::{env, fs, path::PathBuf};

fn main() {
    println!("cargo:rerun-if-changed=memory.x");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    fs::write(out.join("memory.x"), include_str!("memory.x")).expect("OUT_DIR is writable");
    println!("cargo:rustc-link-search={}", out.display());
    println!("cargo:rustc-link-arg=-Tlink.x");
    // Without it the sections are aligned to 64 KiB pages, which flash does not have.
    println!("cargo:rustc-link-arg=--nmagic");
}
