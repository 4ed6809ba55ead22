use super::*;
use clap::{Args, Subcommand};

#[derive(Parser, Debug)]
#[command(name = "prog")]
struct Program {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    Run(Run),
    Show(Show),
}

#[derive(Args, Debug)]
struct Show {
    #[arg(long)]
    state_dir: PathBuf,
    #[arg(long, default_value = "plain")]
    style: String,
    #[arg(long)]
    config: Option<PathBuf>,
}

#[derive(Args, Debug)]
struct Run {
    #[arg(long, env = "EDGEMESH_TEST_LISTEN", value_parser = socket_address, default_value = "0.0.0.0:20004")]
    listen: SocketAddr,
    #[arg(long, env = "EDGEMESH_TEST_STATE_DIR")]
    state_dir: PathBuf,
    #[arg(long, value_parser = host_port)]
    advertise: Vec<String>,
    #[arg(long)]
    quiet: bool,
    #[arg(long, value_parser = ["route", "shadow"])]
    mode: Option<String>,
    #[arg(long, env = "EDGEMESH_TEST_CONFIG")]
    config: Option<PathBuf>,
}

struct File(PathBuf);

impl File {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("edgemesh-config-{name}-{}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        Self(path)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn run(args: &[&str]) -> Result<Run, String> {
    let args = ["prog", "run"].iter().chain(args).map(OsString::from);
    match try_parse::<Program>(args) {
        Ok(Program { command: Verb::Run(run) }) => Ok(run),
        Ok(Program { command: Verb::Show(show) }) => panic!("{show:?}"),
        Err(e) => Err(e.to_string()),
    }
}

fn with_file(file: &File, args: &[&str]) -> Result<Run, String> {
    let mut all = vec!["--config", file.0.to_str().unwrap()];
    all.extend(args);
    run(&all)
}

#[test]
fn the_file_fills_what_flags_leave_open_even_required_fields() {
    let file = File::new(
        "fill",
        "# comment\nstateDir: /var/lib/x\nlisten: 127.0.0.1:1\nadvertise: [a.example:1, 'b:2']\nquiet: true\nmode: shadow\n",
    );
    let got = with_file(&file, &["--listen", "127.0.0.1:2"]).unwrap();
    assert_eq!(got.listen.port(), 2);
    assert_eq!(got.state_dir, PathBuf::from("/var/lib/x"));
    assert_eq!(got.advertise, ["a.example:1", "b:2"]);
    assert!(got.quiet);
    assert_eq!(got.mode.as_deref(), Some("shadow"));
    let got = with_file(&file, &["--advertise", "c:3"]).unwrap();
    assert_eq!((got.listen.port(), got.advertise), (1, vec!["c:3".to_owned()]));
    assert!(got.config.is_some());
}

#[test]
fn a_variable_is_above_the_file_and_below_the_flag() {
    // Other tests of this binary must not see the variable, so a child process runs this test with it set.
    if std::env::var_os("EDGEMESH_TEST_LISTEN").is_none() {
        let exe = std::env::current_exe().unwrap();
        let status = std::process::Command::new(exe)
            .args(["--exact", "config::tests::a_variable_is_above_the_file_and_below_the_flag"])
            .env("EDGEMESH_TEST_LISTEN", "127.0.0.1:7")
            .status();
        assert!(status.unwrap().success());
        return;
    }
    let file = File::new("variable", "stateDir: /x\nlisten: 127.0.0.1:1\n");
    assert_eq!(with_file(&file, &[]).unwrap().listen.port(), 7);
    assert_eq!(with_file(&file, &["--listen", "127.0.0.1:2"]).unwrap().listen.port(), 2);
}

#[test]
fn every_mistake_names_field_value_and_what_is_accepted() {
    let says = |result: Result<Run, String>, parts: &[&str]| {
        let text = result.unwrap_err();
        for part in parts {
            assert!(text.contains(part), "{part:?} is not in {text:?}");
        }
    };
    says(run(&[]), &["--state-dir"]);
    says(run(&["--state-dir", "/x", "--listen", "here"]), &["here", "--listen", "IP:PORT"]);
    says(run(&["--state-dir", "/x", "--lisen", "here"]), &["--lisen", "--listen"]);
    let wrong = |name: &str, text: &str, parts: &[&str]| {
        let file = File::new(name, text);
        let path = file.0.to_str().unwrap().to_owned();
        let mut parts = parts.to_vec();
        parts.push(&path);
        says(with_file(&file, &["--state-dir", "/x"]), &parts);
    };
    wrong("unknown", "lisen: 1", &["\"lisen\"", "listen, stateDir, advertise, quiet, mode"]);
    wrong("value", "listen: here", &["\"listen\"", "\"here\"", "IP:PORT"]);
    wrong("choice", "mode: turbo", &["\"mode\"", "turbo", "route, shadow"]);
    wrong("list", "listen: [a, b]", &["\"listen\"", "one value"]);
    wrong("bool", "quiet: maybe", &["\"quiet\"", "maybe", "true, false"]);
    wrong("yaml", "listen: [", &["not a YAML mapping"]);
    wrong("scalar", "just words", &["not a YAML mapping"]);
    says(run(&["--state-dir", "/x", "--config", "/no/such/file"]), &["/no/such/file", "No such file"]);
}

#[test]
fn one_file_serves_all_subcommands() {
    let file = File::new("shared", "stateDir: /x\nstyle: bold\nlisten: 127.0.0.1:1\n");
    assert_eq!(with_file(&file, &[]).unwrap().listen.port(), 1);
    let args = ["prog", "show", "--config", file.0.to_str().unwrap()].map(OsString::from);
    let Verb::Show(show) = try_parse::<Program>(args).unwrap().command else { panic!() };
    assert_eq!((show.state_dir, show.style.as_str()), (PathBuf::from("/x"), "bold"));
    assert!(show.config.is_some());
}

#[test]
fn an_empty_file_changes_nothing() {
    let file = File::new("empty", "# nothing\n\n");
    assert_eq!(with_file(&file, &["--state-dir", "/x"]).unwrap().listen.port(), 20_004);
}

#[test]
fn value_parsers_take_what_they_say() {
    assert_eq!(span("24h"), Ok(Duration::from_secs(86_400)));
    assert_eq!(span("90s"), Ok(Duration::from_secs(90)));
    for bad in ["", "h", "24", "-1h", "0s", "1w", "99999999999999999999d", "1é"] {
        assert!(span(bad).is_err(), "{bad}");
    }
    for good in ["cloud.example:20004", "192.0.2.1:1", "[2001:db8::1]:1"] {
        assert!(host_port(good).is_ok(), "{good}");
    }
    for bad in ["cloud", "cloud:0", ":1", "cl oud:1", "2001:db8::1:1", "x:70000", "192.0.2.1:0"] {
        assert!(host_port(bad).is_err(), "{bad}");
    }
    for good in ["edge-1", "a.b.c", "9"] {
        assert!(node_name(good).is_ok(), "{good}");
    }
    for bad in ["", "Edge", "-a", "a-", "a..b", "a b"] {
        assert!(node_name(bad).is_err(), "{bad}");
    }
    assert_eq!(dns_server("10.0.0.2").unwrap().port(), 53);
    assert_eq!(dns_server("10.0.0.2:5353").unwrap().port(), 5_353);
}

#[test]
fn urls_are_checked() {
    for good in
        ["http://127.0.0.1:10550", "https://[fd00::1]:6443", "https://api.example", "http://10.0.0.1:80/"]
    {
        assert_eq!(http_url(good).as_deref(), Ok(good));
    }
    for bad in ["127.0.0.1:10550", "ftp://x:1", "http://", "https://a b:1", "http://x:0", "http://x:1/path"] {
        assert!(http_url(bad).unwrap_err().contains("accepted"), "{bad}");
    }
}
