//! The short form of the calibration: every code on a dozen channels at three confidences.

use std::sync::Arc;

use indicatif::ProgressBar;
use parhelion_calibration::campaign::Campaign;
use parhelion_calibration::catalogue::{channels, codes};
use parhelion_calibration::life::Asked;
use parhelion_calibration::policy::Policy;
use parhelion_calibration::report::Report;
use parhelion_calibration::worsening;

fn policies(filter: &str) -> Vec<Arc<dyn Policy>> {
    let policies = codes().unwrap().into_iter().map(|code| Arc::new(code) as Arc<dyn Policy>);
    policies.filter(|policy| policy.name().contains(filter)).collect()
}

fn campaign(names: &[&str], policies: Vec<Arc<dyn Policy>>, disasters: u32, threads: usize) -> Report {
    let mut channels = channels();
    channels.retain(|channel| names.contains(&channel.name.as_str()));
    assert_eq!(channels.len(), names.len(), "a channel is gone");
    let grid = (channels.len(), policies.len());
    let campaign = Campaign {
        channels,
        policies,
        levels: vec![0.9, 0.99, 0.999],
        disasters,
        links: 2,
        asked: Asked::Between(1e-4, 0.9),
        seed: 7,
        threads,
        is_simulated: false,
    };
    let results = campaign.run(&ProgressBar::hidden()).unwrap();
    assert_eq!(results.altered, 0, "a record came with other bytes than were sent");
    Report::new(campaign.seed, grid, results, Vec::new())
}

#[test]
fn promises_are_kept_on_lines_that_the_model_supposes() {
    let names = [
        "independent 1 %",
        "independent 5 %",
        "independent 10 %",
        "bursts 2, 5 %",
        "bursts 3, 5 %",
        "bursts 5, 1 %",
        "bursts 10, 5 %",
        "bursts 20, 5 %",
        "bursts 100, 15 %",
        "bursts 3, 15 %",
        "bursts 10 of 60 %, 3 %",
        "bursts 50 of 60 %, 10 %",
    ];
    let report = campaign(&names, policies(""), 30, 2);
    let text = report.summary();
    let supposed: Vec<_> = report.promises.iter().filter(|row| row.is_supposed).collect();
    assert_eq!(supposed.len(), 6, "two models at three confidences");
    for row in supposed {
        assert!(!row.is_broken() && row.cells_refuted == 0, "{row:?}\n{text}");
        assert!(row.judged > 100 && row.promised > 5.0, "nothing is tried: {row:?}");
    }
    // Losses are seen at all, and promises are not of another world than they are.
    let elliott = report.promises.iter().filter(|row| row.model == "gilbert-elliott");
    let (promised, lost) =
        elliott.fold((0.0, 0), |(promised, lost), row| (promised + row.promised, lost + row.lost));
    assert!(lost >= 20 && promised < 10.0 * lost as f64, "{promised} promised, {lost} lost\n{text}");
}

#[test]
fn a_model_that_promises_too_little_is_found_out() {
    // Independent losses are what `iid-bound` supposes, and bursts are not.
    let report = campaign(&["bursts 20, 5 %"], policies("reed-solomon-fast"), 400, 2);
    let refuted = report.refuted();
    assert!(!refuted.is_empty() && report.summary().contains("Refuted: "), "{}", report.summary());
    assert!(refuted.iter().all(|cell| cell.model == "iid-bound"), "{}", report.summary());
    // The node's own record of promises finds it out too, and raises that model's figures alone.
    assert!(refuted.iter().any(|cell| cell.factor > 10.0));
    assert!(report.cells.iter().all(|cell| cell.model == "iid-bound" || cell.factor == 1.0));
}

#[test]
fn the_same_seed_gives_the_same_report() {
    let names = ["bursts 5, 5 %", "every 11th"];
    let [one, two] = [1, 2].map(|threads| campaign(&names, policies("reed-solomon v1"), 20, threads));
    assert_eq!(serde_json::to_string(&one).unwrap(), serde_json::to_string(&two).unwrap());
    assert!(one.judged > 0 && one.disasters == 2 * 2 * 20 * 3);
}

#[test]
fn a_line_that_worsens_breaks_promises_until_the_mirror_tells() {
    let all = worsening::run(&policies("c=3 depth=1"), 0.999, 40, 7, 2, &ProgressBar::hidden()).unwrap();
    assert_eq!(all.len(), 3);
    let first = &all[0];
    let lost: u64 =
        first.phases.iter().filter(|phase| phase.from_ms >= 0.0 && phase.to_ms <= 20.0).map(|p| p.lost).sum();
    let before = &first.phases[0];
    assert!(before.judged > 20 && !before.is_broken(), "{before:?}");
    assert!(lost > 0, "the change does nothing: {first:?}");
    // Behind the report nobody is promised what the line no longer keeps.
    assert!(
        first.phases.iter().filter(|phase| phase.from_ms >= 300.0).all(|phase| !phase.is_broken()),
        "{first:?}"
    );
}
