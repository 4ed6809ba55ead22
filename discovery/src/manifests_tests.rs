use super::*;
use crate::table::Table;
use std::sync::mpsc;

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("edgemesh-manifests-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: &str) {
        let temporary = self.0.join(format!(".{name}"));
        std::fs::write(&temporary, text).unwrap();
        std::fs::rename(temporary, self.0.join(name)).unwrap();
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn service(name: &str, ip: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\nspec:\n  clusterIP: {ip}\n  ports:\n  - port: 80\n"
    )
}

/// Takes what is new; the names of the Services that there are then.
fn names(table: &mut Table, changes: Changes) -> Vec<String> {
    changes
        .into_iter()
        .for_each(|(identity, change)| table.apply(std::time::Instant::now(), identity, change.object));
    table.keys().map(|key| key.name.clone()).collect()
}

#[test]
fn yaml_json_lists_and_many_documents_are_read() {
    let dir = Scratch::new("read");
    dir.write(
        "a.yaml",
        &format!(
            "# head\n---\n{}---\n# nothing\n--- # next\n{}",
            service("a", "10.0.0.1"),
            service("b", "10.0.0.2")
        ),
    );
    dir.write("b.json", "{\n\t\"kind\": \"List\", \"items\": [{\"kind\": \"Service\", \"metadata\": {\"name\": \"c\"}, \"spec\": {\"clusterIP\": \"None\"}}]}");
    dir.write("c.txt", &service("ignored", "10.0.0.3"));
    dir.write("d.yml", "");
    let (mut manifests, mut table) = (Manifests::new(&dir.0), Table::default());
    let scan = manifests.scan().unwrap();
    assert!(scan.changed && scan.problems.is_empty(), "{:?}", scan.problems);
    assert_eq!(names(&mut table, manifests.changes()), ["a", "b", "c"]);
    let again = manifests.scan().unwrap();
    assert!(!again.changed && manifests.changes().is_empty());
    std::fs::remove_file(dir.0.join("a.yaml")).unwrap();
    assert!(manifests.scan().unwrap().changed);
    assert_eq!(names(&mut table, manifests.changes()), ["c"]);
}

#[test]
fn a_mistake_takes_nothing_away_and_is_named() {
    let dir = Scratch::new("mistake");
    dir.write("a.yaml", &format!("{}---\n{}", service("a", "10.0.0.1"), service("b", "10.0.0.2")));
    let (mut manifests, mut table) = (Manifests::new(&dir.0), Table::default());
    let _ = manifests.scan().unwrap();

    dir.write("a.yaml", &format!("{}---\n{}", service("a", "10.0.0.9"), service("b", "nonsense")));
    dir.write("b.yaml", &service("c", "10.0.0.3"));
    let scan = manifests.scan().unwrap();
    let texts: Vec<String> = scan.problems.iter().map(ToString::to_string).collect();
    assert_eq!(texts.len(), 1);
    assert!(texts[0].contains("a.yaml: document 2: spec.clusterIP: value \"nonsense\""), "{}", texts[0]);
    assert!(texts[0].ends_with("its last good version stays"));
    assert_eq!(names(&mut table, manifests.changes()), ["a", "b", "c"]);
    let text = format!("{table:?}");
    assert!(text.contains("10.0.0.9") && text.contains("10.0.0.2"));
    assert!(manifests.scan().unwrap().problems.is_empty(), "told once");

    dir.write("a.yaml", "kind: Service\n  bad indent: [");
    let scan = manifests.scan().unwrap();
    assert!(
        scan.problems[0].to_string().contains("a.yaml: document 1: after line 0"),
        "{}",
        scan.problems[0]
    );
    assert!(!scan.changed);
    std::fs::write(dir.0.join("z.yaml"), [0xFF, 0xFE, 0x00]).unwrap();
    let scan = manifests.scan().unwrap();
    assert!(scan.problems[0].to_string().contains("z.yaml: cannot read") && !scan.problems[0].kept);
    assert_eq!(names(&mut table, manifests.changes()), ["a", "b", "c"]);

    dir.write("a.yaml", &service("a", "10.0.0.1"));
    let scan = manifests.scan().unwrap();
    assert!(scan.changed && scan.problems.is_empty());
    assert_eq!(names(&mut table, manifests.changes()), ["a", "c"]);
}

#[test]
fn a_lost_directory_changes_nothing() {
    let dir = Scratch::new("lost");
    dir.write("a.yaml", &service("a", "10.0.0.1"));
    let (mut manifests, mut table) = (Manifests::new(&dir.0), Table::default());
    let _ = manifests.scan().unwrap();
    std::fs::remove_dir_all(&dir.0).unwrap();
    assert!(manifests.scan().is_err());
    assert_eq!(names(&mut table, manifests.changes()), ["a"]);
    assert!(Source::spawn(&dir.0, |_| {}, |_| {}).is_err());
}

#[test]
fn a_source_follows_the_directory_through_every_kind_of_replacement() {
    let dir = Scratch::new("follow");
    dir.write("a.yaml", &service("a", "10.0.0.1"));
    let (tables, seen) = mpsc::channel();
    let (problems, told) = mpsc::channel();
    let source =
        Source::spawn(&dir.0, move |t| tables.send(t).unwrap(), move |p| problems.send(p).unwrap()).unwrap();
    let wait = Duration::from_secs(20);
    let mut table = Table::default();
    let mut next = || names(&mut table, seen.recv_timeout(wait).unwrap());
    assert_eq!(next(), ["a"]);

    dir.write("a.yaml", &service("renamed", "10.0.0.1"));
    assert_eq!(next(), ["renamed"]);
    std::fs::write(dir.0.join("b.yaml"), service("written", "10.0.0.2")).unwrap();
    assert_eq!(next(), ["renamed", "written"]);
    std::fs::remove_file(dir.0.join("b.yaml")).unwrap();
    assert_eq!(next(), ["renamed"]);

    // The way a mounted ConfigMap changes: files are links into a directory that is swapped.
    for (version, name) in [("..1", "first"), ("..2", "second")] {
        std::fs::create_dir(dir.0.join(version)).unwrap();
        std::fs::write(dir.0.join(version).join("cm.yaml"), service(name, "10.0.0.3")).unwrap();
        std::os::unix::fs::symlink(version, dir.0.join("..new")).unwrap();
        std::fs::rename(dir.0.join("..new"), dir.0.join("..data")).unwrap();
        if version == "..1" {
            std::os::unix::fs::symlink("..data/cm.yaml", dir.0.join("cm.yaml")).unwrap();
        }
        assert!(next().iter().any(|found| found == name));
    }

    dir.write("a.yaml", "kind: Service\nmetadata: {name: bad}\nspec: {clusterIP: x}");
    assert!(told.recv_timeout(wait).unwrap().contains("a.yaml"));

    // The whole directory is replaced.
    let aside = dir.0.with_extension("aside");
    std::fs::rename(&dir.0, &aside).unwrap();
    assert!(told.recv_timeout(wait).unwrap().contains("last good content stays"));
    std::fs::create_dir(&dir.0).unwrap();
    dir.write("new.yaml", &service("new", "10.0.0.4"));
    while next() != ["new"] {}
    drop(source);
    std::fs::remove_dir_all(aside).unwrap();
}
