//! `parhelion link`: what operators want to know of the link, and its code.

use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::{LinkCommand, ServerArgs};
use crate::client::{As, connect};
use crate::commands::{run, show};
use crate::output::{Exit, Failure, bytes, count, field, percent, print_table, say, span};

/// Runs a command.
pub fn link(command: LinkCommand) -> Result<Exit, Failure> {
    run(async move {
        match command {
            LinkCommand::Status { server } => status(&server).await,
            LinkCommand::Code { server, name, parameters } => {
                let client = connect(&server, As::Admin).await?;
                let code = client.change_code(name, parameters.join(" ")).await?;
                show(&server, json!({ "code": code }), || {
                    say!("the link uses {code}");
                    say!("set link.code and link.parameters too: a node that starts again uses its settings");
                });
                Ok(Exit::Done)
            }
        }
    })
}

async fn status(server: &ServerArgs) -> Result<Exit, Failure> {
    let client = connect(server, As::Client).await?;
    let status = client.status().await?;
    let part = |key: &str| status[key].clone();
    let document = json!({
        "site": part("site"), "duty": part("duty"), "linked": status["logs"]["linked"],
        "code": status["logs"]["code"], "link": part("link"), "channel": part("channel"),
        "planner": part("planner"),
    });
    show(server, document.clone(), || show_link(&document));
    Ok(Exit::Done)
}

fn show_link(document: &Value) {
    let link = &document["link"];
    let duty = field(&document["duty"]);
    if !link.is_object() || duty == "single" {
        say!("site {}, {duty}: it has no link to another site", field(&document["site"]));
        return;
    }
    let number = |key: &str| link[key].as_u64().unwrap_or_default();
    let state = if number("up") > 0 { "up" } else { "down" };
    say!(
        "site {}, {duty}: the link is {state}; sessions so far: {}\n",
        field(&document["site"]),
        number("sessions")
    );
    let is_primary = duty == "primary";
    let mut rows = Vec::new();
    let mut row = |name: &str, value: String| rows.push([name.to_owned(), value]);
    if is_primary {
        row(
            "transport",
            format!("{}, congestion control {}", field(&link["transport"]), field(&link["congestion"])),
        );
        let share = link["share"].as_f64().unwrap_or(1.0);
        row(
            "rate",
            format!("{}, of which data may take {}", rate(number("rate_bits_per_second")), percent(share)),
        );
        row("code", field(&document["code"]));
        if number("code_faults") > 0 {
            row("codes that broke", format!("{}; the log says which, and why", count(number("code_faults"))));
        }
        let planner = &document["planner"];
        if planner["on"].as_bool() == Some(true) {
            let changes = planner["changes"].as_u64().unwrap_or_default();
            row("planner", format!("chooses the code; changes so far: {}", count(changes)));
        }
        if let Some(last) = planner["last"].as_str() {
            row("last plan", last.to_owned());
        }
        row("round trip", span(Duration::from_micros(number("rtt_micros"))));
        let (all, repairs, again) = (number("datagrams_sent"), number("repairs_sent"), number("resent"));
        let of_all = |part: u64| percent(part as f64 / all.max(1) as f64);
        row(
            "sent",
            format!(
                "{} packets, {}: {} repairs, {} sent again",
                count(all),
                bytes(number("datagram_bytes_sent")),
                of_all(repairs),
                of_all(again)
            ),
        );
        row("announced", format!("{} records", count(number("announcements_sent"))));
        row("unconfirmed", bytes(number("buffered_bytes")));
        row("kernel held packets for", span(Duration::from_micros(number("wire_lag_micros"))));
    } else {
        row(
            "received",
            format!(
                "{} packets, {}",
                count(number("datagrams_received")),
                bytes(number("datagram_bytes_received"))
            ),
        );
        row("records", format!("{}, {}", count(number("records")), bytes(number("record_bytes"))));
        row("announcements", count(number("announcements_received")));
    }
    row("reports", count(number("reports")));
    row("dropped by this host", format!("{} packets", count(number("host_drops"))));
    row("refused as malformed", count(number("rejected")));
    print_table(["link", ""], rows);
    show_channel(&document["channel"], &link["model"]);
}

/// The bounds on the channel, and what they rest on.
fn show_channel(channel: &Value, model: &Value) {
    let Some(horizons) = channel["horizons"].as_array() else { return };
    let bounds = |bounds: &Value| {
        let part = |key: &str| bounds[key].as_f64().unwrap_or(f64::NAN);
        (percent(part("loss")), format!("{:.1}", part("burst")), percent(part("loss_in_bad")))
    };
    let (loss, burst, in_burst) = bounds(&channel["bounds"]);
    say!(
        "\nrisks are priced with: losses of at most {loss}, bursts of {burst} packets with {in_burst} lost in them\n\
         (model {}, confidence {}); the bounds rest on:\n",
        field(model),
        field(&channel["bounds"]["confidence"])
    );
    let row = |horizon: &Value| {
        let number = |key: &str| horizon[key].as_u64().unwrap_or_default();
        let (loss, burst, _) = bounds(&horizon["bounds"]);
        let seen = number("lost") as f64 / number("packets").max(1) as f64;
        [
            field(&horizon["horizon"]),
            count(number("packets")),
            count(number("lost")),
            percent(seen),
            count(number("bursts")),
            loss,
            burst,
            if horizon["counts"] == true { "yes".to_owned() } else { "no".to_owned() },
        ]
    };
    let header = ["last", "packets", "lost", "loss", "bursts", "loss at most", "burst at most", "counts"];
    print_table(header, horizons.iter().map(row));
}

fn rate(bits_per_second: u64) -> String {
    let bits = bits_per_second as f64;
    let units = [("Gbit/s", 1e9), ("Mbit/s", 1e6), ("kbit/s", 1e3), ("bit/s", 1.0)];
    let (name, unit) = units.iter().find(|(_, unit)| bits >= *unit).unwrap_or(&units[3]);
    format!("{} {name}", bits / unit)
}
