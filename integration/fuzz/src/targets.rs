//! The targets, one file each.

mod bulk;
mod certificates;
mod client;
mod critical;
mod http;
mod log;
mod parameters;
mod settings;
mod site;

/// One kind of bytes from outside, and what they are given to.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Names it on the command line, and its folders of inputs.
    pub name: &'static str,
    /// Runs one input. Panics where a promise is broken.
    pub run: fn(&[u8]),
    /// Inputs that reach deep, made by the code that writes such bytes, each with its file's name.
    pub seeds: fn() -> Vec<(&'static str, Vec<u8>)>,
}

/// Every target.
pub const TARGETS: [Target; 9] = [
    Target { name: "bulk", run: bulk::run, seeds: bulk::seeds },
    Target { name: "certificates", run: certificates::run, seeds: certificates::seeds },
    Target { name: "client", run: client::run, seeds: client::seeds },
    Target { name: "critical", run: critical::run, seeds: critical::seeds },
    Target { name: "http", run: http::run, seeds: http::seeds },
    Target { name: "log", run: log::run, seeds: log::seeds },
    Target { name: "parameters", run: parameters::run, seeds: parameters::seeds },
    Target { name: "settings", run: settings::run, seeds: settings::seeds },
    Target { name: "site", run: site::run, seeds: site::seeds },
];
