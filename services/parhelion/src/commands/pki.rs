//! `parhelion pki`: a private certificate authority, and what it issues.

use std::time::SystemTime;

use parhelion_gate::Identity;
use parhelion_gate::pki::{self, InitOptions, PkiError, Subject};
use parhelion_types::{Role, SiteId};
use serde_json::json;

use crate::cli::{IssueArgs, PkiCommand};
use crate::output::{Exit, Failure, print_json, say};

/// Runs a command.
pub fn pki(command: PkiCommand) -> Result<Exit, Failure> {
    match command {
        PkiCommand::Init { directory, json } => {
            let files = pki::init(&directory, &InitOptions::default()).map_err(Failure::new)?;
            if json {
                print_json(&json!({ "files": files }));
            } else {
                for file in files {
                    say!("{}", file.display());
                }
            }
        }
        PkiCommand::Issue(arguments) => issue(arguments)?,
    }
    Ok(Exit::Done)
}

fn issue(arguments: IssueArgs) -> Result<(), Failure> {
    let IssueArgs { directory, certificate, site, names, roles, valid_for, json } = arguments;
    if SystemTime::now().checked_add(valid_for).is_none() || valid_for.is_zero() {
        let given = humantime::format_duration(valid_for);
        return Err(Failure::usage(format!("--valid-for {given}: give a time such as 365d")));
    }
    let roles = match site {
        // A node whose roles are not told may have all of them.
        Some(_) if roles.is_empty() => vec![Role::Storage, Role::Metadata, Role::Link],
        _ => roles,
    };
    let subject = Subject { name: certificate, roles, site: site.map(SiteId), names };
    let [certificate, key] = pki::issue(&directory, &subject, valid_for).map_err(|error| match error {
        PkiError::Subject { .. } => Failure::usage(error),
        error => Failure::new(error),
    })?;
    let issued = Identity::load_from(&directory, &subject.name).and_then(|identity| identity.description());
    let issued = issued.map_err(Failure::new)?;
    let until = humantime::format_rfc3339_seconds(issued.not_after).to_string();
    let roles: Vec<&str> = issued.roles.iter().map(|role| role.name()).collect();
    if json {
        print_json(&json!({
            "certificate": certificate, "key": key, "site": site, "roles": roles, "names": issued.names,
            "good_until": until,
        }));
    } else {
        if issued.roles.contains(&Role::Link) && issued.names.is_empty() {
            eprintln!(
                "warning: it names no host, so the other site's link.peer_names cannot ask for this node; to have that, \
                 issue another with --name HOST"
            );
        }
        say!("{}\n{}", certificate.display(), key.display());
    }
    Ok(())
}
