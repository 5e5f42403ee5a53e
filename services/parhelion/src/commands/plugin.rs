//! `parhelion plugin`: the author's tools. They need no node.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use parhelion_plugin::{Code, Parameters};
use parhelion_plugin_host::{Catalogue, Entry, Kind, Loaded, Origin, open};
use parhelion_plugin_kit::answers;
use parhelion_plugin_kit::examination::{Finding, Refutation, examine};
use parhelion_plugin_kit::listing::{Guarantee, Listed, guarantee, list};
use parhelion_plugin_kit::project::create;
use parhelion_plugin_kit::residual::{Residual, lines, play};
use parhelion_plugin_kit::speed::{self, Speed};
use serde_json::{Value, json};

use crate::cli::{PluginCommand, SettingsArgs};
use crate::commands::load;
use crate::output::{Exit, Failure, count, counted, percent, print_json, print_table, say};
use crate::plugins;

/// Runs a command.
pub fn plugin(command: PluginCommand) -> Result<Exit, Failure> {
    match command {
        PluginCommand::New { name, language, kind, directory, json } => {
            let files = create(&directory, &name, language, kind.into()).map_err(Failure::usage)?;
            if json {
                let files: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
                print_json(&json!({ "name": name, "files": files }));
            } else {
                files.iter().for_each(|file| say!("{}", file.display()));
                say!("\nREADME.md in {} says how it is built", directory.join(&name).display());
            }
            Ok(Exit::Done)
        }
        PluginCommand::List { settings, json } => show_list(&settings, json),
        PluginCommand::Check { settings, plugin, parameters, seed, json } => {
            check(&find(&settings, &plugin)?, &parse(&parameters)?, seed, json)
        }
        PluginCommand::Bench { settings, plugin, parameters, symbol_bytes, turns, json } => {
            let entry = find(&settings, &plugin)?;
            let parameters = parse(&parameters)?;
            match &entry.plugin {
                Loaded::Code(family) => {
                    let code = Code::new(Arc::clone(family), &parameters).map_err(Failure::usage)?;
                    bench_code(&code, symbol_bytes as usize, turns, json)
                }
                Loaded::Model(_) if parameters.iter().next().is_some() => Err(Failure::usage(format!(
                    "a durability model has no parameters; leave {parameters} out"
                ))),
                Loaded::Model(_) => Ok(bench_model(&entry, json)),
            }
        }
    }
}

/// A plugin file, or a plugin of the catalogue by its name.
fn find(settings: &SettingsArgs, plugin: &str) -> Result<Entry, Failure> {
    let file = Path::new(plugin);
    if file.is_file()
        || plugin.contains('/')
        || file.extension().is_some_and(|ending| ending == "so" || ending == "wasm")
    {
        return open(file).map_err(Failure::usage);
    }
    let (catalogue, refused) = plugins::load(&load(settings)?.settings)?;
    let loaded = match (catalogue.code(plugin), catalogue.model(plugin)) {
        (Ok(code), _) => Loaded::Code(code),
        (_, Ok(model)) => Loaded::Model(model),
        (Err(error), Err(_)) => {
            // Perhaps it is there, and was refused.
            let why: String = refused.iter().map(|refused| format!("\n{refused}")).collect();
            return Err(Failure::usage(format!(
                "{error}; a file is named with its path, such as ./my-code.wasm{why}"
            )));
        }
    };
    Ok(Entry { plugin: loaded, origin: Origin::BuiltIn })
}

fn parse(parameters: &[String]) -> Result<Parameters, Failure> {
    parameters.join(" ").parse().map_err(Failure::usage)
}

fn show_list(settings: &SettingsArgs, as_json: bool) -> Result<Exit, Failure> {
    let (catalogue, refused) = plugins::load(&load(settings)?.settings)?;
    let listed = list(&catalogue);
    let exit = if refused.is_empty() { Exit::Done } else { Exit::Found };
    if as_json {
        let refused = refused.iter().map(
            |it| json!({ "file": it.file.display().to_string(), "plugin": it.plugin, "reason": it.reason }),
        );
        print_json(&json!({ "plugins": listed, "refused": refused.collect::<Vec<_>>() }));
        return Ok(exit);
    }
    let row = |it: &Listed| {
        let origin = it.origin.file.clone().unwrap_or_else(|| "built in".to_owned());
        let form = if it.origin.form == "built-in" { String::new() } else { format!("{} ", it.origin.form) };
        let defaults = it.defaults.as_ref();
        [
            it.kind.to_owned(),
            format!("{}@{}", it.name, it.version),
            format!("{form}{origin}"),
            defaults.map_or_else(String::new, |it| it.text.clone()),
            defaults.map_or_else(String::new, |it| percent(it.overhead)),
            defaults.map_or_else(String::new, rebuilt),
        ]
    };
    print_table(
        ["kind", "plugin", "from", "with its defaults", "overhead", "rebuilds"],
        listed.iter().map(row),
    );
    say!();
    let parameters = listed.iter().flat_map(|it| it.parameters.iter().map(move |parameter| (it, parameter)));
    print_table(
        ["code", "default", "range", "meaning"],
        parameters.map(|(it, parameter)| {
            [it.name.clone(), parameter.text(), parameter.range(), parameter.meaning.clone()]
        }),
    );
    if !refused.is_empty() {
        say!("\nrefused:");
        refused.iter().for_each(|refused| say!("{refused}"));
    }
    Ok(exit)
}

/// What a code makes up for.
fn rebuilt(guarantee: &Guarantee) -> String {
    match (guarantee.losses, guarantee.burst) {
        (0, 0) => "nothing".to_owned(),
        (losses, burst) => {
            let noun =
                if burst == 1 { guarantee.burst_unit.trim_end_matches('s') } else { guarantee.burst_unit };
            format!("any {}, bursts of {} {noun}", counted(losses.into(), "packet"), count(burst))
        }
    }
}

fn check(entry: &Entry, parameters: &Parameters, seed: u64, as_json: bool) -> Result<Exit, Failure> {
    let (mut kept, mut current): (Vec<&str>, Option<(&str, Instant)>) = (Vec::new(), None);
    let plugin = format!("{}@{}", entry.plugin.name(), entry.plugin.version());
    if let Loaded::Code(code) = &entry.plugin {
        code.structure(parameters)
            .map_err(|error| Failure::usage(format!("the parameters do not fit: {error}")))?;
    }
    if !as_json {
        say!("{} {plugin} ({}), seed {seed}", entry.plugin.kind(), described(entry, parameters));
    }
    let mut passed = |current: &mut Option<(&'static str, Instant)>| {
        if let Some((promise, since)) = current.take() {
            kept.push(promise);
            if !as_json {
                say!("  kept  {promise:<22} {:>6.1} s", since.elapsed().as_secs_f64());
            }
        }
    };
    let found = examine(&entry.plugin, parameters, seed, &mut |step| {
        passed(&mut current);
        current = Some((step.promise, Instant::now()));
    });
    if found.is_ok() {
        passed(&mut current);
    }
    match found {
        Ok(finding) => {
            if as_json {
                let report = report(&finding);
                print_json(&json!({ "plugin": plugin, "parameters": parameters.to_string(), "seed": seed,
                    "passed": true, "kept": kept, "report": report, "violation": null }));
            } else {
                say!("{}", summary(&finding));
            }
            Ok(Exit::Done)
        }
        Err(error) if error.is_of_the_plugin() => {
            if as_json {
                print_json(&json!({ "plugin": plugin, "parameters": parameters.to_string(), "seed": seed,
                    "passed": false, "kept": kept, "report": null,
                    "violation": { "promise": error.promise(), "detail": detail(&error) } }));
            } else {
                if let Some(promise) = error.promise() {
                    say!("  BROKEN  {promise}");
                }
                say!("{error}");
            }
            Ok(Exit::Found)
        }
        Err(error) => Err(Failure::usage(error)),
    }
}

/// What a code is with these parameters; where a model comes from.
fn described(entry: &Entry, parameters: &Parameters) -> String {
    match &entry.plugin {
        Loaded::Code(code) => match code.structure(parameters) {
            Ok(structure) => guarantee(&structure).text,
            Err(_) => entry.origin.to_string(),
        },
        Loaded::Model(_) => entry.origin.to_string(),
    }
}

fn report(finding: &Finding) -> Value {
    match finding {
        Finding::Code(report) => json!({
            "streams": report.streams, "patterns": report.patterns, "recovered": report.recovered,
            "refused": report.refused, "exhaustive": report.exhaustive,
        }),
        Finding::Model(report) => json!({
            "questions": report.questions, "pairs": report.pairs, "crashes": report.crashes, "lost": report.lost,
        }),
    }
}

fn summary(finding: &Finding) -> String {
    match finding {
        Finding::Code(report) => format!(
            "it keeps its promises: {} streams, {} loss patterns ({}), {} symbols rebuilt and compared, {} damaged repairs refused",
            count(report.streams),
            count(report.patterns),
            if report.exhaustive {
                "every one within the guarantee"
            } else {
                "a sample of those within the guarantee"
            },
            count(report.recovered),
            count(report.refused)
        ),
        Finding::Model(report) => format!(
            "it keeps its promises: {}, {} worse ones; {} crashes with {} lost appends, which is no more than it says",
            counted(report.questions, "question"),
            count(report.pairs),
            count(report.crashes),
            count(report.lost)
        ),
    }
}

fn detail(error: &Refutation) -> String {
    match error {
        Refutation::Code(violation) => violation.detail.clone(),
        Refutation::Model(violation) => violation.detail.clone(),
        error => error.to_string(),
    }
}

/// The code, and all built-in ones with their defaults.
fn beside(code: &Code) -> Vec<Code> {
    let built_in = Catalogue::built_in();
    let others = built_in.codes().filter_map(|family| Code::new(Arc::clone(family), &Parameters::new()).ok());
    std::iter::once(code.clone()).chain(others.filter(|other| other != code)).collect()
}

fn bench_code(code: &Code, symbol_bytes: usize, turns: u32, as_json: bool) -> Result<Exit, Failure> {
    let codes = beside(code);
    let speeds = speed::measure(&codes, symbol_bytes, turns).map_err(Failure::new)?;
    let mut residuals = Vec::new();
    for line in lines() {
        for code in &codes {
            residuals.push((line.story, play(code, &line).map_err(Failure::new)?));
        }
    }
    if as_json {
        let residuals: Vec<_> = residuals.iter().map(|(_, residual)| residual).collect();
        print_json(
            &json!({ "symbol_bytes": symbol_bytes, "turns": turns, "loss_while_decoding": speed::LOSS,
            "speed": speeds, "residual": residuals }),
        );
        return Ok(Exit::Done);
    }
    show_speed(&speeds, symbol_bytes);
    show_residual(&residuals);
    Ok(Exit::Done)
}

fn show_speed(speeds: &[Speed], symbol_bytes: usize) {
    let Some(own) = speeds.first() else { return };
    let figure = |bytes: f64| format!("{:.2}", bytes / 1e9);
    let ratio = |own: f64, other: f64| format!("{:.2}", own / other);
    say!(
        "source bytes on one core in symbols of {symbol_bytes} bytes, GB/s; and how many times as fast {} is\n",
        own.code
    );
    let rows = speeds.iter().map(|it| {
        [
            it.code.clone(),
            figure(it.encode),
            ratio(own.encode, it.encode),
            figure(it.clean),
            ratio(own.clean, it.clean),
            figure(it.decode),
            ratio(own.decode, it.decode),
        ]
    });
    let lossy = format!("decode, {} lost", percent(speed::LOSS));
    print_table(["code", "encode", "times", "decode", "times", &lossy, "times"], rows);
}

fn show_residual(residuals: &[(&str, Residual)]) {
    let span = |ms: Option<f64>| ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.2} ms"));
    let mut last = "";
    for chunk in residuals.chunk_by(|(a, _), (b, _)| a == b) {
        let Some((story, first)) = chunk.first() else { continue };
        if last != first.line {
            say!("\n{}: {story}\n", first.line);
        }
        last = first.line;
        let rows = chunk.iter().map(|(_, it)| {
            [
                it.code.clone(),
                percent(it.overhead),
                percent(it.lost),
                percent(it.residual),
                span(it.delay_p50_ms),
                span(it.delay_p99_ms),
            ]
        });
        print_table(
            ["code", "overhead", "lost on the line", "lost for good", "rebuilt after, median", "p99"],
            rows,
        );
    }
}

/// Of models that have no code to simulate with, none is a reference; so all built-in ones stand beside.
fn bench_model(entry: &Entry, as_json: bool) -> Exit {
    let Loaded::Model(own) = &entry.plugin else { return Exit::Done };
    let built_in = Catalogue::built_in();
    let others =
        built_in.models().filter(|other| (other.name(), other.version()) != (own.name(), own.version()));
    let models: Vec<_> = std::iter::once(own).chain(others).cloned().collect();
    let (answers, paces) = answers::compare(&models);
    if as_json {
        let names: Vec<_> = models.iter().map(|model| model.name()).collect();
        print_json(&json!({ "models": names, "paces": paces, "answers": answers }));
        return Exit::Done;
    }
    print_table(
        ["model", "an answer takes", "background work"],
        paces.iter().map(|it| {
            [it.model.clone(), format!("{:.2} us", it.answer_us), format!("{:.1} s", it.work_seconds)]
        }),
    );
    say!(
        "\nrisk of an append of {} symbols with all its coverage on the wire, by model\n",
        answers.first().map_or(0, |it| it.symbols)
    );
    let mut header = vec!["code", "loss", "burst"];
    header.extend(models.iter().map(|model| model.name()));
    let rows = answers.iter().map(|it| {
        let mut row = vec![it.code.clone(), percent(it.loss), format!("{:.0}", it.burst)];
        row.extend(it.risks.iter().map(|risk| format!("{risk:.1e}")));
        row
    });
    print_wide_table(header, rows);
    Exit::Done
}

/// As [`print_table`], with as many columns as there are.
fn print_wide_table(header: Vec<&str>, rows: impl Iterator<Item = Vec<String>>) {
    let mut table = tabled::builder::Builder::default();
    table.push_record(header);
    rows.for_each(|row| table.push_record(row));
    for line in table.build().with(tabled::settings::Style::blank()).to_string().lines() {
        say!("{}", line.trim_end());
    }
}

impl From<crate::cli::PluginKind> for Kind {
    fn from(kind: crate::cli::PluginKind) -> Self {
        match kind {
            crate::cli::PluginKind::Code => Self::Code,
            crate::cli::PluginKind::Model => Self::Model,
        }
    }
}
