//! The closed loop on a real link: what the planner makes of losses, and how it says so.

use std::time::Duration;

use parhelion_client::AppendOptions;
use parhelion_e2e::{At, Pair, PairOptions, Tool, payload};
use parhelion_types::{Degrade, Durability, Risk};
use parhelion_wan::{LinkConfig, Loss};
use serde_json::Value;

use crate::at_level;

/// Reports teach the estimator, and the planner looks once per second.
const PATIENCE: Duration = Duration::from_secs(60);

fn status(pair: &Pair) -> Value {
    pair.tool(At::Primary, &["link", "status", "--json"]).run().done().json()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_planner_changes_the_code_and_says_why() {
    let line = LinkConfig {
        delay: Duration::from_millis(20),
        loss: Loss::bursty(0.02, 4.0),
        ..LinkConfig::default()
    };
    let options = PairOptions::default().line(line).primary("link.code", "auto");
    let pair = Pair::start(options).await;
    let client = pair.client(At::Primary).await;
    let log = client.create("orders", Degrade::Block).await.unwrap();
    let asked = AppendOptions {
        max_risk: Risk::asked(1e-3).unwrap(),
        durability: Durability::Network,
        ..AppendOptions::default()
    };
    // A line that carries little tells little of its bursts: others keep it busy.
    let busy: Vec<_> = (0..4)
        .map(|n| {
            let client = client.clone();
            tokio::spawn(async move {
                for number in (n..).step_by(4) {
                    let options = at_level(Durability::Local);
                    client
                        .append(log, payload(1_000_000 + number, 60_000), options)
                        .await
                        .expect("acknowledged");
                    tokio::time::sleep(Duration::from_millis(8)).await;
                }
            })
        })
        .collect();
    let began = tokio::time::Instant::now();
    let before = status(&pair)["code"].clone();
    let mut number = 0;
    let planned = loop {
        for _ in 0..20 {
            client.append(log, payload(number, 4000), asked.clone()).await.expect("acknowledged");
            number += 1;
        }
        let status = status(&pair);
        if status["planner"]["changes"].as_u64() > Some(0) {
            break status;
        }
        assert!(began.elapsed() < PATIENCE, "nothing was planned: {status}");
    };
    busy.iter().for_each(|writer| writer.abort());
    assert_ne!(planned["code"], before, "{planned}");
    let why = planned["planner"]["last"].as_str().unwrap();
    assert!(why.contains("->") && why.contains("overhead"), "{why}");
    let text = pair.tool(At::Primary, &["link", "status"]).run().done().text();
    assert!(text.contains("chooses the code") && text.contains("last plan"), "{text}");
    assert!(std::fs::read_to_string(pair.primary.spec.log()).unwrap().contains("the link's code changed"));

    // The operator's word ends it, until it is given back.
    drop(pair.tool(At::Primary, &["link", "code", "reed-solomon", "r=8", "c=3"]).run().done());
    assert_eq!(status(&pair)["planner"]["on"], false);
    drop(pair.tool(At::Primary, &["link", "code", "auto"]).run().done());
    assert_eq!(status(&pair)["planner"]["on"], true);
    pair.tool(At::Primary, &["link", "code", "auto", "r=8"]).run().refused(2, &["auto takes no parameters"]);
    pair.mirrored().await;
    pair.verify();
}

#[test]
fn plans_are_printed_drawn_and_honest_about_what_cannot_be() {
    let tool = |arguments: &[&str]| Tool::new([&["plan"], arguments].concat());
    let text = tool(&["--loss", "0.1%", "--burst", "3"]).run().done().text();
    for words in
        ["link.code = ", "link.parameters = ", "default: ", "risk against time", "the mirror's own word"]
    {
        assert!(text.contains(words), "no {words:?} in {text}");
    }
    let folder = tempfile::tempdir().unwrap();
    for (name, start) in [("curve.svg", &b"<svg"[..]), ("curve.png", b"\x89PNG")] {
        let file = folder.path().join(name);
        let json = tool(&["--plot", file.to_str().unwrap(), "--json"]).run().done().json();
        assert!(json["plan"]["overhead"].as_f64().unwrap() < json["default"]["overhead"].as_f64().unwrap());
        assert!(json["alternatives"].as_array().unwrap().len() >= 4, "{json}");
        assert!(std::fs::read(&file).unwrap().starts_with(start), "{name}");
    }
    // No code can promise that on such a line before the mirror answers.
    let hopeless = ["--loss", "20%", "--burst", "400", "--one-way", "1ms", "--max-risk", "1e-9"];
    let outcome = tool(&hopeless).run();
    assert_eq!(outcome.code, Some(4));
    let text = outcome.text();
    assert!(text.contains("no code meets the risk before the mirror itself answers"), "{text}");
    tool(&["--loss", "120%"]).run().refused(2, &["--loss"]);
}
