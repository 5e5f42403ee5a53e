//! Rolling disasters, many of them: what each mode loses, why, and whether the promised risks allow it.
//!
//! SMFS Figure 6, with `parhelion drill`: independent losses of 0.1, 0.5 and 1 %, and bursts of 3 packets at 1 %, during
//! the last half second, then link and primary are gone. `--rounds` is the number of disasters per case and mode; 30 are
//! enough to tell.
//!
//! All settings are the shipped ones, but for what a case names. Where nothing is lost no promise is tried. So there are
//! two more cases, with a code of one repair that loses something in many disasters, and writers who accept any risk: one
//! for each durability model, as independent losses are all that `iid-bound` is made for.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use parhelion_drill::{DrillReport, Mode, ModeSummary};

use crate::error::BenchError;
use crate::figure::{Figure, Found, Goal};
use crate::lab::{Lab, say};

/// What is drilled.
struct Case {
    name: &'static str,
    loss: &'static str,
    /// Mean length of a loss in packets.
    burst: &'static str,
    modes: &'static [Mode],
    /// Further options of the drill.
    options: &'static [&'static str],
    /// Whether losses of the mode network-sync are a missed goal.
    safe: bool,
}

const CASES: [Case; 6] = [
    Case { name: "loss 0.1 %", loss: "0.1%", ..STOCK },
    Case { name: "loss 0.5 %", loss: "0.5%", ..STOCK },
    Case { name: "loss 1 %", ..STOCK },
    Case { name: "loss 1 % in bursts of 3", burst: "3", ..STOCK },
    Case { name: "loss 1 %, one repair", options: &ONE_REPAIR, ..UNSAFE },
    Case { name: "loss 1 %, one repair, iid-bound", options: &ONE_REPAIR_IID, ..UNSAFE },
];

const STOCK: Case = Case {
    name: "",
    loss: "1%",
    burst: "1",
    modes: &[Mode::LocalSync, Mode::NetworkSync],
    options: &[],
    safe: true,
};

const UNSAFE: Case = Case { modes: &[Mode::NetworkSync], safe: false, ..STOCK };

const ONE_REPAIR: [&str; 4] =
    ["--code", "layered-interleaving r=8 interleaves=1 delayed=0", "--max-risk", "1"];
const ONE_REPAIR_IID: [&str; 6] =
    [ONE_REPAIR[0], ONE_REPAIR[1], ONE_REPAIR[2], ONE_REPAIR[3], "--set", "risk.model=iid-bound"];

/// Load without loss before the writing: as in `parhelion drill` where a risk of 1e-6 is asked for, which only the
/// packets of many seconds allow to promise; where no risk is asked for, enough for the link to be in its stride.
const WARM_UP: &str = "15s";
const WARM_UP_ANY_RISK: &str = "3s";

/// The shortest drill: half a second without loss, half a second with it.
const WRITING_MIN: Duration = Duration::from_secs(1);

/// Exit codes of a drill that was carried out: done, and found a fault.
const CARRIED_OUT: [Option<i32>; 2] = [Some(0), Some(4)];

pub(crate) fn run(lab: &Lab) -> Result<Found, BenchError> {
    let mut found = Found::default();
    for (number, case) in CASES.iter().enumerate() {
        for &mode in case.modes {
            say(format!("{} disasters of {mode}, {}", lab.rounds, case.name));
            let workplace = lab.workplace()?;
            let report = drill(lab, case, mode, number, workplace.path())?;
            for row in &report.modes {
                found.figures.extend(figures(case, row));
                found.notes.push(note(case, row));
            }
            let mut remarks: Vec<_> = report.runs.iter().flat_map(|run| &run.notes).cloned().collect();
            remarks.sort();
            remarks.dedup();
            let remarked = report.runs.iter().filter(|run| !run.notes.is_empty()).count();
            found.notes.push(format!(
                "{mode}, {}: remarks on {remarked} of {} disasters",
                case.name,
                report.runs.len()
            ));
            found.notes.extend(remarks.into_iter().take(REMARKS_MAX).map(|remark| format!("  {remark}")));
        }
    }
    Ok(found)
}

/// Remarks that are shown: enough to see what disturbed the drill.
const REMARKS_MAX: usize = 5;

/// Carries out the drill and reads its report.
fn drill(
    lab: &Lab,
    case: &Case,
    mode: Mode,
    number: usize,
    directory: &Path,
) -> Result<DrillReport, BenchError> {
    let warm_up = if case.safe && mode == Mode::NetworkSync { WARM_UP } else { WARM_UP_ANY_RISK };
    let modes = mode.to_string();
    let json = directory.join("drill.json");
    let seconds = lab.turn.max(WRITING_MIN).as_secs_f64().to_string();
    let repeat = lab.rounds.to_string();
    // Each case has seeds of its own.
    let seed = (1 + number as u64 * 10_000).to_string();
    let mut command = Command::new(&lab.binary);
    command
        .args(["drill", "--modes", &modes, "--burst", case.burst, "--warm-up", warm_up])
        .args(["--loss", case.loss, "--seconds", &seconds, "--repeat", &repeat, "--seed", &seed])
        .args(case.options)
        .args(lab.settings.iter().flat_map(|setting| ["--set", setting]))
        .arg("--json")
        .arg(&json)
        // Its data goes where the data of all benchmarks goes.
        .env("TMPDIR", directory)
        .stdout(Stdio::null());
    let status = command.status().map_err(BenchError::file("starting", &lab.binary))?;
    if !CARRIED_OUT.contains(&status.code()) {
        return Err(BenchError::Figure {
            what: "loss in disasters",
            reason: format!("the drill ended with {status}; what it said is above"),
        });
    }
    let text = std::fs::read(&json).map_err(BenchError::file("reading", &json))?;
    serde_json::from_slice(&text).map_err(|error| BenchError::file("reading", &json)(error.into()))
}

/// What is wanted: the paper's result for each mode, causes that add up, and promises that hold.
fn figures(case: &Case, row: &ModeSummary) -> Vec<Figure> {
    let figure = |what: &str, unit, value: f64| {
        Figure::new(format!("{}, {}: {what}", row.mode, case.name), unit, vec![value])
    };
    let causes = row.lost.in_host + row.lost.on_wire + row.lost.behind_gap;
    let lost = figure("lost", "appends", row.lost.total as f64);
    let unexplained = figure("lost without a cause", "appends", row.lost.total.abs_diff(causes) as f64);
    let unexplained = unexplained.goal(Goal::AtMost(0.0));
    if row.mode != Mode::NetworkSync {
        return vec![lost.goal(Goal::AtLeast(1.0)), unexplained];
    }
    let lost = if case.safe { lost.goal(Goal::AtMost(0.0)) } else { lost };
    let promise = &row.promise;
    let disasters = figure("disasters with a loss", "", promise.losses as f64);
    let p_value = figure("p-value of the promises", "", promise.p_value.min(promise.p_value_appends));
    vec![
        lost,
        unexplained,
        disasters.against("promised", &[promise.expected]),
        p_value.goal(Goal::AtLeast(SIGNIFICANCE)),
    ]
}

/// Promises with a p-value below this are refuted.
const SIGNIFICANCE: f64 = 0.01;

fn note(case: &Case, row: &ModeSummary) -> String {
    let disasters = row.runs as f64;
    let (lost, promise) = (&row.lost, &row.promise);
    format!(
        "{}, {}: {} disasters, {:.0} appends acknowledged ({:.0} ahead of the mirror), {} lost = {} in the host + \
         {} on the wire + {} behind a gap; {} disasters with a loss, {:.2e} promised; {:.2e} lost appends promised; \
         highest risk {:.2e}; ack p50 {:.1} ms",
        row.mode,
        case.name,
        row.runs,
        row.acked_appends.mean * disasters,
        row.acked_ahead.mean * disasters,
        lost.total,
        lost.in_host,
        lost.on_wire,
        lost.behind_gap,
        promise.losses,
        promise.expected,
        promise.expected_appends,
        row.risk_highest,
        row.ack_p50_micros.mean / 1e3,
    )
}
