//! Every committed input goes through its target: what fuzzing found reachable, and what it found wrong.

use std::path::{Path, PathBuf};

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn corpora_and_regressions_pass() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (name, target) in edgemesh_fuzz::TARGETS {
        target(&[]);
        let corpus = files(&root.join("corpus").join(name));
        assert!(!corpus.is_empty(), "{name} has no corpus");
        for file in corpus {
            println!("{}", file.display());
            target(&std::fs::read(&file).unwrap());
        }
    }
    for file in files(&root.join("regressions")) {
        let name = file.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let target = name.split_once('.').and_then(|(target, _)| edgemesh_fuzz::target(target));
        println!("{}", file.display());
        target.unwrap_or_else(|| panic!("{name}: not named TARGET.what-was-wrong"))(
            &std::fs::read(&file).unwrap(),
        );
    }
}
