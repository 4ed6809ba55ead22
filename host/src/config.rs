//! Configuration: flags over `EDGEMESH_*` variables over a YAML file.
//!
//! The clap structs of a program are the only description of its settings. A flag `--state-dir` is the variable
//! that its `env` attribute names and the key `stateDir` of the file named by `--config`. File values become
//! clap defaults, so one set of value parsers judges all three sources. One file may serve all subcommands: keys
//! that only another one knows are left alone. Everything wrong is an error that names the field, the value and
//! what is accepted; the process ends with code 2.

use clap::builder::OsStr;
use clap::{Arg, ArgAction, ArgMatches, Command, Parser};
use std::collections::HashSet;
use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Exit code for wrong usage or configuration.
pub const EXIT_USAGE: u8 = 2;
/// Id of the argument that names the file.
const CONFIG: &str = "config";

/// Why the configuration is not usable.
#[derive(Debug)]
pub enum ConfigError {
    /// Wrong flags or variables, or a request for help or version (which is no failure).
    Usage(clap::Error),
    /// A wrong configuration file; the text for the user.
    File(String),
}

impl std::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Usage(e) => e.fmt(f),
            Self::File(text) => write!(f, "error: {text}"),
        }
    }
}

impl std::error::Error for ConfigError {}

/// The configuration of this process; prints what is wrong and exits otherwise.
pub fn parse<P: Parser>() -> P {
    match try_parse(std::env::args_os()) {
        Ok(config) => config,
        Err(ConfigError::Usage(e)) => e.exit(),
        Err(error) => {
            eprintln!("{error}");
            std::process::exit(i32::from(EXIT_USAGE));
        }
    }
}

/// As [`parse`], from given arguments (the first is the program's name).
///
/// # Errors
/// See [`ConfigError`].
pub fn try_parse<P: Parser>(args: impl IntoIterator<Item = OsString>) -> Result<P, ConfigError> {
    let args: Vec<OsString> = args.into_iter().collect();
    let mut command = P::command();
    if let Some((subcommand, file)) = config_file(&command, &args) {
        let mut values = read(&file).map_err(ConfigError::File)?;
        command = match &subcommand {
            None => layer(command, &file, values)?,
            Some(name) => {
                let elsewhere = keys_of_others(&command, name);
                values.retain(|key, _| !elsewhere.contains(key));
                let mut result = Ok(());
                command = command.mut_subcommand(name, |inner| match layer(inner.clone(), &file, values) {
                    Ok(layered) => layered,
                    Err(error) => {
                        result = Err(error);
                        inner
                    }
                });
                result.map(|()| command)?
            }
        };
    }
    let matches = command.try_get_matches_from(&args).map_err(ConfigError::Usage)?;
    P::from_arg_matches(&matches).map_err(ConfigError::Usage)
}

/// Which file `--config` or its variable names, and for which subcommand. Other mistakes wait for the full parse.
fn config_file(command: &Command, args: &[OsString]) -> Option<(Option<String>, PathBuf)> {
    let matches = command.clone().ignore_errors(true).try_get_matches_from(args).ok()?;
    let file = |m: &ArgMatches| m.try_get_one::<PathBuf>(CONFIG).ok().flatten().cloned();
    match matches.subcommand() {
        Some((name, inner)) => {
            file(inner).or_else(|| file(&matches)).map(|path| (Some(name.to_owned()), path))
        }
        None => file(&matches).map(|path| (None, path)),
    }
}

/// Keys that subcommands other than `name` know, and `name` itself does not.
fn keys_of_others(command: &Command, name: &str) -> HashSet<String> {
    let keys = |c: &Command| c.get_arguments().filter(|a| settable(a)).map(camel).collect::<HashSet<_>>();
    let own = command.find_subcommand(name).map(keys).unwrap_or_default();
    let others = command.get_subcommands().filter(|c| c.get_name() != name).flat_map(keys);
    others.filter(|key| !own.contains(key)).collect()
}

type Fields = serde_json::Map<String, serde_json::Value>;

fn read(path: &Path) -> Result<Fields, String> {
    let name = path.display();
    let text = std::fs::read_to_string(path).map_err(|e| format!("config file {name}: {e}"))?;
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(Fields::new());
    }
    serde_saphyr::from_str(&text)
        .map_err(|e| format!("config file {name}: not a YAML mapping of settings: {}", e.without_snippet()))
}

/// Makes the file's values the defaults of `command`'s arguments.
fn layer(mut command: Command, file: &Path, values: Fields) -> Result<Command, ConfigError> {
    for (key, value) in values {
        let fail = |text: String| ConfigError::File(format!("config file {}: {text}", file.display()));
        let Some(arg) = command.get_arguments().find(|a| settable(a) && camel(a) == key).cloned() else {
            let known: Vec<String> = command.get_arguments().filter(|a| settable(a)).map(camel).collect();
            return Err(fail(format!("unknown field {key:?}; accepted: {}", known.join(", "))));
        };
        let values = scalars(&arg, value).map_err(|e| fail(format!("field {key:?}: {e}")))?;
        for one in &values {
            judge(&arg, one).map_err(|e| fail(format!("field {key:?}: value {one:?}: {e}")))?;
        }
        command = command
            .mut_arg(arg.get_id(), |a| a.required(false).default_values(values.into_iter().map(OsStr::from)));
    }
    Ok(command)
}

fn settable(arg: &Arg) -> bool {
    arg.get_long().is_some()
        && arg.get_id() != CONFIG
        && !matches!(
            arg.get_action(),
            ArgAction::Help | ArgAction::HelpLong | ArgAction::HelpShort | ArgAction::Version
        )
}

/// The file's name for an argument: `state-dir` is `stateDir`.
fn camel(arg: &Arg) -> String {
    let mut out = String::new();
    for (n, word) in arg.get_long().unwrap_or_default().split('-').enumerate() {
        let mut chars = word.chars();
        match chars.next() {
            Some(first) if n > 0 => out.extend(first.to_uppercase()),
            Some(first) => out.push(first),
            None => {}
        }
        out.push_str(chars.as_str());
    }
    out
}

fn scalars(arg: &Arg, value: serde_json::Value) -> Result<Vec<String>, String> {
    use serde_json::Value;
    let scalar = |value: Value| match value {
        Value::String(s) => Ok(s),
        Value::Bool(b) => Ok(b.to_string()),
        Value::Number(n) => Ok(n.to_string()),
        Value::Null => Err("value is empty; accepted: one value".to_owned()),
        Value::Array(_) | Value::Object(_) => Err(format!("value {value}; accepted: one value")),
    };
    match value {
        Value::Array(items) if matches!(arg.get_action(), ArgAction::Append) => {
            items.into_iter().map(scalar).collect()
        }
        one => scalar(one).map(|v| vec![v]),
    }
}

/// Runs the argument's own value parser on a value of the file.
fn judge(arg: &Arg, value: &str) -> Result<(), String> {
    if matches!(arg.get_action(), ArgAction::SetTrue | ArgAction::SetFalse) {
        return match value {
            "true" | "false" => Ok(()),
            _ => Err("accepted: true, false".to_owned()),
        };
    }
    let alone = Command::new("field").no_binary_name(true).disable_help_flag(true).arg(
        Arg::new("value")
            .action(ArgAction::Set)
            .value_parser(arg.get_value_parser().clone())
            .num_args(1)
            .allow_hyphen_values(true),
    );
    let Err(error) = alone.try_get_matches_from([value]) else { return Ok(()) };
    if let Some(source) = std::error::Error::source(&error) {
        return Err(source.to_string());
    }
    let accepted = match error.get(clap::error::ContextKind::ValidValue) {
        Some(clap::error::ContextValue::Strings(all)) => all.join(", "),
        _ => "another kind of value".to_owned(),
    };
    Err(format!("accepted: {accepted}"))
}

/// Value parser: `IP:PORT`.
///
/// # Errors
/// What is accepted.
pub fn socket_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "accepted: IP:PORT, such as 0.0.0.0:20004 or [::]:20004".to_owned())
}

/// Value parser: `IP` or `IP:PORT`, with port 53 when none is given.
///
/// # Errors
/// What is accepted.
pub fn dns_server(text: &str) -> Result<SocketAddr, String> {
    let bare = || text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53));
    text.parse().or_else(|_| bare()).map_err(|_| "accepted: IP or IP:PORT, such as 10.0.0.2:53".to_owned())
}

/// Value parser: `HOST:PORT`, a name or an address.
///
/// # Errors
/// What is accepted.
pub fn host_port(text: &str) -> Result<String, String> {
    let accepted = || "accepted: HOST:PORT, such as cloud.example:20004".to_owned();
    if let Ok(address) = text.parse::<SocketAddr>() {
        return if address.port() == 0 { Err(accepted()) } else { Ok(text.to_owned()) };
    }
    let (host, port) = text.rsplit_once(':').ok_or_else(accepted)?;
    let name = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.' || c == '_';
    match port.parse::<u16>() {
        Ok(1..) if !host.is_empty() && host.len() <= 253 && host.chars().all(name) => Ok(text.to_owned()),
        _ => Err(accepted()),
    }
}

/// Value parser: `http://HOST:PORT` or `https://HOST:PORT`, the port being optional.
///
/// # Errors
/// What is accepted.
pub fn http_url(text: &str) -> Result<String, String> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let rest = rest.map(|r| r.strip_suffix('/').unwrap_or(r));
    let usable = rest.is_some_and(|r| host_port(r).is_ok() || host_port(&format!("{r}:443")).is_ok());
    if usable {
        Ok(text.to_owned())
    } else {
        Err("accepted: http://HOST:PORT or https://HOST:PORT".to_owned())
    }
}

/// Value parser: a Kubernetes object name of the DNS-1123 subdomain form, as node names are.
///
/// # Errors
/// What is accepted.
pub fn node_name(text: &str) -> Result<String, String> {
    let label = |l: &str| {
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        !l.is_empty() && !l.starts_with('-') && !l.ends_with('-') && l.chars().all(inner)
    };
    if text.len() <= 253 && text.split('.').all(label) {
        return Ok(text.to_owned());
    }
    Err("accepted: a Kubernetes node name: lower-case letters, digits, '-' and '.', at most 253 characters"
        .to_owned())
}

/// Value parser: a span such as `90s`, `15m`, `24h` or `7d`.
///
/// # Errors
/// What is accepted.
pub fn span(text: &str) -> Result<Duration, String> {
    let accepted = || "accepted: a number with s, m, h or d, such as 24h".to_owned();
    let unit = text.chars().next_back().ok_or_else(accepted)?;
    let factor = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return Err(accepted()),
    };
    let number = text.strip_suffix(unit).unwrap_or_default();
    let number: u64 = number.parse().map_err(|_| accepted())?;
    number.checked_mul(factor).filter(|s| *s > 0).map(Duration::from_secs).ok_or_else(accepted)
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
