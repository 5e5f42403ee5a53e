//! The planner of a node that has both the storage and the link of a primary site: what it plans for, and its hands.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix::Addr;
use parhelion_actor_runtime::Clock;
use parhelion_estimator::{Belief, Demand, Planned, PlannerConfig, Traffic};
use parhelion_link_driver::LinkStats;
use parhelion_plan::{Candidate, Policy, Situation};
use parhelion_plugin::{Code, Structure};
use parhelion_plugin_host::Catalogue as Plugins;
use parhelion_storage::{Request, StorageActor};
use tokio::sync::oneshot;

use crate::drivers;
use crate::link::CurrentStats;
use crate::output::Failure;
use crate::settings::Settings;

/// The value of `link.code` that lets the planner choose.
pub const AUTO: &str = "auto";

/// The site and the link that the planner plans for.
pub struct PlannedLink {
    pub storage: Addr<StorageActor>,
    pub stats: CurrentStats,
}

impl Planned for PlannedLink {
    fn demand(&self) -> oneshot::Receiver<Option<Demand>> {
        let (answer, asked) = oneshot::channel();
        self.storage.do_send(Request::Demand { answer });
        let (tell, told) = oneshot::channel();
        tokio::spawn(async move {
            let demand = asked.await.ok().flatten().map(|demand| Demand {
                append_bytes: demand.append_bytes,
                in_flight: demand.in_flight,
                max_risk: demand.max_risk,
                deadline: demand.deadline,
            });
            // Whoever asked may have been rebuilt.
            let _ = tell.send(demand);
        });
        told
    }

    fn traffic(&self) -> Traffic {
        let stats: Arc<LinkStats> = self.stats.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Traffic {
            symbols: stats.source_sent.get(),
            records: stats.records.get(),
            flushes: stats.flushes.get(),
            round_trip: Duration::from_micros(stats.rtt_micros.get()),
        }
    }

    fn change(&self, candidate: &Candidate) -> oneshot::Receiver<Result<(), String>> {
        let (done, changed) = oneshot::channel();
        self.storage.do_send(Request::ChangeCode {
            name: format!("{}@{}", candidate.code.name(), candidate.code.version()),
            parameters: candidate.code.parameters().to_string(),
            flush_pause: Some(candidate.flush_pause),
            done,
        });
        changed
    }
}

/// What the planner is built from.
pub fn config(
    settings: &Settings,
    plugins: &Plugins,
    clock: Arc<Clock>,
    belief: Arc<Mutex<Belief>>,
) -> Result<PlannerConfig, Failure> {
    let current =
        Candidate { code: drivers::code(settings, plugins)?, flush_pause: settings.link.flush_pause };
    // A code of whose structure nothing is known is for the operator to choose.
    let is_known = |code: &Code| !matches!(code.structure(), Structure::Other { .. });
    let usable = |family: &Arc<_>| {
        Code::new(Arc::clone(family), &Default::default()).is_ok_and(|code| is_known(&code))
    };
    Ok(PlannerConfig {
        policy: Policy::default(),
        catalogue: plugins.codes().filter(|family| usable(family)).cloned().collect(),
        model: plugins.model(&settings.risk.model).map_err(Failure::new)?,
        current,
        line: line(settings),
        clock,
        belief,
    })
}

/// What of the situation follows from the settings.
pub fn line(settings: &Settings) -> Situation {
    let link = &settings.link;
    Situation {
        line_bytes_per_second: drivers::bytes_per_second(settings),
        packet_bytes: link.mtu.into(),
        symbol_data_bytes: drivers::lane_config(settings).symbol_data_bytes(),
        site_exit: link.site_exit_delay,
        flush_delay: link.flush_delay,
        flush_age: link.flush_delay * 4,
        mirror_delay: link.report_interval + Duration::from_millis(2),
        ..Situation::default()
    }
}
