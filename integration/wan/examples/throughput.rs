//! How fast the packet form carries TCP, how much processor time that takes, and how late it is.
//!
//! `throughput [delay] [rate ...]`, such as `throughput 5ms 300M 1G 0`; a rate of 0 is a line without
//! limit. One connection from site A to site B for two seconds per rate, after one second to warm up.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parhelion_wan::{
    Emulator, LinkConfig, Namespaces, Side, WanConfig, WanCounters, WanError, enter_user_namespace,
    run_emulator,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == EMULATE) {
        return Ok(run_emulator()?);
    }
    enter_user_namespace()?;
    let (delay, rates) = match arguments.split_first() {
        Some((delay, rates)) => (parse(delay, &[("ms", 1_000_000)])?, rates.to_vec()),
        None => (5_000_000, Vec::new()),
    };
    let rates = if rates.is_empty() { ["100M", "300M", "1G", "0"].map(String::from).to_vec() } else { rates };
    println!(
        "one way {:?}, MTU {} bytes, one TCP connection",
        Duration::from_nanos(delay),
        parhelion_wan::MTU_BYTES
    );
    println!("  line Gbit/s  TCP Gbit/s  emulator CPU %  packets/s  late mean us  late max us  host drops");
    for rate in rates {
        measure(Duration::from_nanos(delay), parse(&rate, &[("M", 1_000_000), ("G", 1_000_000_000)])?)?;
    }
    Ok(())
}

fn measure(delay: Duration, rate: u64) -> Result<(), WanError> {
    let rate = Some(rate).filter(|rate| *rate > 0);
    let link = LinkConfig { delay, rate, queue_bytes: 4 << 20, ..LinkConfig::default() };
    let sites = Namespaces::create()?;
    let mut command = Command::new("/proc/self/exe");
    command.arg(EMULATE);
    let mut emulator = Emulator::spawn_packet(command, &WanConfig::symmetric(1, link), &sites)?;
    let (received, done) = (AtomicU64::new(0), AtomicBool::new(false));
    let listener = sites.within(Side::B, || TcpListener::bind((Side::B.address(), 0)))?.map_err(io)?;
    let address = listener.local_addr().map_err(io)?;
    let mut source = sites.within(Side::A, || TcpStream::connect(address))?.map_err(io)?;
    let (mut sink, _) = listener.accept().map_err(io)?;
    let (bytes, span, counters) = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = vec![0; 1 << 18];
            while let Ok(length @ 1..) = sink.read(&mut buffer) {
                received.fetch_add(length as u64, Ordering::Relaxed);
                if done.load(Ordering::Relaxed) {
                    let _ = sink.shutdown(std::net::Shutdown::Both);
                }
            }
        });
        scope.spawn(move || {
            let data = vec![0; 1 << 18];
            while source.write_all(&data).is_ok() {}
        });
        std::thread::sleep(Duration::from_secs(1));
        let (before, from, begin) = (emulator.counters(), received.load(Ordering::Relaxed), Instant::now());
        std::thread::sleep(Duration::from_secs(2));
        let (span, bytes) = (begin.elapsed(), received.load(Ordering::Relaxed) - from);
        let after = emulator.counters();
        // The receiver then closes, which ends its reads and makes the sender's next write fail.
        done.store(true, Ordering::Relaxed);
        Ok::<_, WanError>((bytes, span.as_secs_f64(), [before?, after?]))
    })?;
    let drops = sites.host_drops(Side::A)?.sent + sites.host_drops(Side::B)?.sent;
    report(rate, bytes, span, &counters, drops);
    Ok(())
}

fn report(rate: Option<u64>, bytes: u64, span: f64, [before, after]: &[WanCounters; 2], drops: u64) {
    let line = rate.map_or("none".into(), |rate| format!("{:.2}", rate as f64 / 1e9));
    let processor = (after.cpu_nanos - before.cpu_nanos) as f64 / 1e9 / span * 100.0;
    let late = &after.a_to_b.timeliness;
    let carried = after.a_to_b.timeliness.deliveries + after.b_to_a.timeliness.deliveries
        - before.a_to_b.timeliness.deliveries
        - before.b_to_a.timeliness.deliveries;
    println!(
        "  {line:>11}  {:>10.2}  {processor:>14.0}  {:>9.0}  {:>12.0}  {:>11.0}  {drops:>10}",
        bytes as f64 * 8.0 / span / 1e9,
        carried as f64 / span,
        late.late_mean().as_secs_f64() * 1e6,
        late.late_max_nanos as f64 / 1e3,
    );
}

fn io(source: std::io::Error) -> WanError {
    WanError::System { doing: "opening the test connection".into(), source }
}

/// A whole number, with one of the units.
fn parse(text: &str, units: &[(&str, u64)]) -> Result<u64, String> {
    let (number, factor) = units
        .iter()
        .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor)))
        .unwrap_or((text, 1));
    let number: u64 = number.parse().map_err(|error| format!("{text:?} is not a figure: {error}"))?;
    Ok(number * factor)
}

const EMULATE: &str = "emulate-wan";
