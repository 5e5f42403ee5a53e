//! The emulator as a process, in both forms, with real sockets.
//!
//! This binary is its own runner: it starts itself again as the emulator, and enters a user namespace
//! first thing, which the usual runner's threads would forbid. Arguments that are not options select
//! tests by name.
//!
//! What cannot run here is skipped, each test with a line that begins with `SKIPPED`. With
//! `PARHELION_SKIP_NOTHING=1` it fails instead: set it on a machine that surely has network namespaces.

mod packet;
mod privileges;
mod relay;

use std::net::UdpSocket;
use std::process::{Command, ExitCode};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parhelion_wan::{enter_user_namespace, run_emulator};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some(EMULATE) => return outcome(run_emulator().map_err(|error| error.to_string())),
        Some(packet::ECHO) => return outcome(packet::echo_server()),
        Some(relay::HOLD) => return outcome(relay::hold_emulator()),
        _ => {}
    }
    // Past the next call everybody looks like root.
    let is_root = rustix::process::geteuid().is_root();
    if let Err(error) = enter_user_namespace() {
        println!("no user namespace: {error}");
    }
    let mut suites: Vec<Suite> = vec![
        (relay::TESTS, &|| Ok(())),
        (packet::TESTS, &|| parhelion_wan::packet_form_available().map_err(|error| error.to_string())),
    ];
    if is_root {
        suites.push((privileges::TESTS, &privileges::check));
    }
    let wanted: Vec<_> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str()));
    let may_skip = std::env::var_os(SKIP_NOTHING).is_none_or(|value| value != "1");
    let (mut failed, mut skipped) = (0, 0);
    for (tests, check) in suites {
        let mut possible = None;
        for (name, test) in tests.iter().filter(|(name, _)| is_wanted(name)) {
            let start = Instant::now();
            let result = match possible.get_or_insert_with(check) {
                Ok(()) if std::panic::catch_unwind(test).is_ok() => "ok",
                Ok(()) => "FAILED",
                Err(reason) if may_skip => {
                    // On standard error, as every skipped test of the workspace.
                    eprintln!("SKIPPED: {name}: {reason}");
                    skipped += 1;
                    continue;
                }
                Err(reason) => {
                    println!("  not to be skipped, as {SKIP_NOTHING} is 1: {reason}");
                    "FAILED"
                }
            };
            failed += usize::from(result != "ok");
            println!("test {name} ... {result} ({:.2?})", start.elapsed());
        }
    }
    println!("{failed} failed, {skipped} skipped");
    outcome(if failed == 0 { Ok(()) } else { Err(format!("{failed} tests failed")) })
}

/// Tests with their names, and what says why they cannot run here.
type Suite<'a> = (&'a [(&'static str, fn())], &'a dyn Fn() -> Result<(), String>);

/// The command that starts the emulator.
pub fn emulate() -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this binary has a path"));
    command.arg(EMULATE);
    command
}

/// Asserts that a span is at least `least` and not much more, on a machine that may be busy.
pub fn assert_about(what: &str, span: Duration, least: Duration, slack: Duration) {
    // A microsecond is forgiven: the two clocks are read in two processes.
    assert!(span + Duration::from_micros(1) >= least, "{what}: {span:?} is less than {least:?}");
    assert!(span <= least + slack, "{what}: {span:?} is more than {least:?} + {slack:?}");
}

/// Collects datagrams until none comes for a while, on a thread of its own: a socket buffer left alone would
/// overflow and lose what the link did not.
pub fn receive_until_silent(socket: UdpSocket, silence: Duration) -> JoinHandle<Vec<Vec<u8>>> {
    socket.set_read_timeout(Some(silence)).expect("a UDP socket takes a timeout");
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        std::iter::from_fn(|| socket.recv(&mut buffer).ok().map(|length| buffer[..length].to_vec())).collect()
    })
}

fn outcome(result: Result<(), String>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("{reason}");
            ExitCode::FAILURE
        }
    }
}

const EMULATE: &str = "emulate-wan";
const SKIP_NOTHING: &str = "PARHELION_SKIP_NOTHING";
