//! The emulator as a process, in both forms, with real sockets.
//!
//! This binary is its own runner: it starts itself again as the emulator, and enters a user namespace
//! first thing, which the usual runner's threads would forbid. Arguments that are not options select
//! tests by name.

mod packet;
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
    if let Err(error) = enter_user_namespace() {
        println!("no user namespace: {error}");
    }
    let wanted: Vec<_> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let mut tests: Vec<(&str, fn())> = relay::TESTS.to_vec();
    match parhelion_wan::packet_form_available() {
        Ok(()) => tests.extend(packet::TESTS),
        Err(reason) => println!("skipped all tests of the packet form: {reason}"),
    }
    let mut failed = 0;
    for (name, test) in tests {
        if !wanted.is_empty() && !wanted.iter().any(|part| name.contains(part.as_str())) {
            continue;
        }
        let start = Instant::now();
        let result = if std::panic::catch_unwind(test).is_ok() { "ok" } else { "FAILED" };
        failed += usize::from(result != "ok");
        println!("test {name} ... {result} ({:.2?})", start.elapsed());
    }
    println!("{failed} failed");
    outcome(if failed == 0 { Ok(()) } else { Err(format!("{failed} tests failed")) })
}

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
