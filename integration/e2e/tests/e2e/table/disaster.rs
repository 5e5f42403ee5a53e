//! The disasters, and what is left after each.

use std::time::Duration;

use parhelion_client::Promotion;
use parhelion_e2e::{At, Tool};
use parhelion_types::Durability;
use parhelion_wan::{Loss, Side, monotonic_now};
use serde_json::Value;

use super::scene::{Aftermath, IDLE_TIMEOUT, ONE_WAY, SITE_EXIT_DELAY, Scene};
use super::{Fate, Mode};

/// What goes wrong: a row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Disaster {
    /// The primary's process is killed and started again with its data.
    PrimaryRestarts,
    /// Nothing passes between the sites for longer than the idle timeout; then the link is joined again.
    LinkCut,
    /// The mirror is killed and its data destroyed; an empty one takes its place.
    MirrorLost,
    /// The link is cut at the primary's end, and the primary killed. What had left arrives.
    SiteLost,
    /// The rolling disaster: 1 % loss for a while, then as before.
    LossThenSite,
    /// The link goes with all that is on it; the primary is killed a while later.
    CutThenSite,
    /// The mirror is killed, a while later the primary's site is lost, and the mirror comes back with its data.
    MirrorThenSite,
}

impl Disaster {
    pub(super) const ALL: [Self; 7] = [
        Self::PrimaryRestarts,
        Self::LinkCut,
        Self::MirrorLost,
        Self::SiteLost,
        Self::LossThenSite,
        Self::CutThenSite,
        Self::MirrorThenSite,
    ];

    /// As the document writes it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::PrimaryRestarts => "primary crashes and comes back",
            Self::LinkCut => "link cut and joined again",
            Self::MirrorLost => "mirror lost with its data",
            Self::SiteLost => "primary's site lost",
            Self::LossThenSite => "packets lost, then the primary's site",
            Self::CutThenSite => "link cut with all on it, then the primary's site lost",
            Self::MirrorThenSite => "mirror crashes, then the primary's site is lost",
        }
    }
}

/// Before the disaster: more than the link's round trip, so that mirroring is under way in a steady state.
const STEADY: Duration = Duration::from_millis(700);
/// The same where a risk is to be promised: the bounds on the channel need packets to rest on.
const HISTORY: Duration = Duration::from_secs(2);
/// From the first stroke to the second.
const BETWEEN: Duration = Duration::from_millis(400);

/// Lets it happen, and checks that acknowledged appends meet this fate.
pub(super) async fn play(disaster: Disaster, mode: Mode, fate: Fate) {
    match disaster {
        Disaster::PrimaryRestarts => primary_restarts(mode).await,
        Disaster::LinkCut => link_cut(mode).await,
        Disaster::MirrorLost => mirror_lost(mode).await,
        // The relay of these tests cannot lose segments of a TCP connection; network namespaces can.
        Disaster::LossThenSite if !mode.has_code() => drill(mode, fate),
        Disaster::SiteLost | Disaster::LossThenSite | Disaster::CutThenSite | Disaster::MirrorThenSite => {
            let (found, promotion) = lose_the_site(disaster, mode).await;
            judge(fate, &found, &promotion);
        }
    }
}

async fn primary_restarts(mode: Mode) {
    let mut scene = Scene::start(mode).await;
    scene.write_for(STEADY).await;
    scene.pair.primary.kill();
    let killed = monotonic_now();
    scene.write_for(BETWEEN).await;
    scene.pair.primary.start();
    scene.pair.linked().await;
    scene.acknowledges_again(killed).await;
    scene.both_sites_have_everything().await;
}

async fn link_cut(mode: Mode) {
    let mut scene = Scene::start(mode).await;
    scene.write_for(STEADY).await;
    let cut = scene.line().partition(monotonic_now()).unwrap();
    // Silence is noticed, by both ends.
    scene.write_for(IDLE_TIMEOUT * 2).await;
    let noticed = monotonic_now();
    scene.write_for(BETWEEN).await;
    let meanwhile = scene.acks_since(noticed);
    match mode.durability() {
        Durability::Local => assert!(meanwhile > 0, "the local level waits for a link that is away"),
        level => assert_eq!(meanwhile, 0, "acknowledged at {level} without a link"),
    }
    scene.line().heal().unwrap();
    scene.pair.linked().await;
    scene.acknowledges_again(cut).await;
    scene.both_sites_have_everything().await;
}

async fn mirror_lost(mode: Mode) {
    let mut scene = Scene::start(mode).await;
    scene.write_for(STEADY).await;
    scene.pair.mirror.kill();
    let killed = monotonic_now();
    let data = scene.pair.mirror.spec.setting("node.data").unwrap().to_owned();
    std::fs::remove_dir_all(data).unwrap();
    scene.write_for(BETWEEN).await;
    scene.pair.mirror.start();
    scene.pair.linked().await;
    scene.acknowledges_again(killed).await;
    scene.both_sites_have_everything().await;
}

/// One of the disasters in which the primary's site does not come back, and the mirror is promoted.
async fn lose_the_site(disaster: Disaster, mode: Mode) -> (Aftermath, Promotion) {
    let mut scene = if disaster == Disaster::LossThenSite {
        Scene::promising(mode).await
    } else {
        Scene::start(mode).await
    };
    scene.write_for(if disaster == Disaster::LossThenSite { HISTORY } else { STEADY }).await;
    let cut = match disaster {
        Disaster::CutThenSite => {
            scene.line().partition(monotonic_now()).unwrap();
            scene.write_for(BETWEEN).await;
            monotonic_now()
        }
        Disaster::MirrorThenSite => {
            scene.pair.mirror.kill();
            scene.write_for(BETWEEN).await;
            scene.line().cut(Side::A, monotonic_now()).unwrap()
        }
        _ => {
            if disaster == Disaster::LossThenSite {
                scene.line().set_loss(None, Loss::independent(0.01)).unwrap();
                scene.write_for(BETWEEN).await;
            }
            match mode.durability() {
                Durability::Local => scene.fill_the_queue().await,
                Durability::Network if disaster == Disaster::SiteLost => scene.has_promises_out().await,
                Durability::Network | Durability::Remote => {}
            }
            scene.line().cut(Side::A, monotonic_now()).unwrap()
        }
    };
    scene.pair.primary.kill();
    if mode == Mode::NetworkSync {
        // Else the mirror's confirmation would be what is tested.
        // A mirror that is dead confirms nothing; one that lives, nothing of the last round trip. Where losses began,
        // promises end when they are reported, a round trip later.
        let unconfirmed = match disaster {
            Disaster::MirrorThenSite | Disaster::LossThenSite => BETWEEN,
            _ => ONE_WAY * 2,
        };
        let ahead = scene.acked_on_the_wire_since(cut - unconfirmed);
        assert!(ahead > 0, "nothing was acknowledged ahead of the mirror: {}", scene.pair.logs_text());
    }
    if disaster == Disaster::MirrorThenSite {
        scene.pair.mirror.start();
    } else {
        // What had left arrives and is applied.
        tokio::time::sleep(ONE_WAY + Duration::from_millis(500)).await;
    }
    let promotion = scene.pair.admin(At::Mirror).await.promote(false).await.unwrap();
    (scene.look_for_what_was_acked(cut).await, promotion)
}

/// Holds what was found against what was claimed.
fn judge(fate: Fate, found: &Aftermath, promotion: &Promotion) {
    let (kept, lost, listed) = (found.kept.len(), found.lost.len(), found.listed_by(promotion));
    let summary = format!("{kept} kept, {lost} lost, {listed} of those listed");
    println!("{summary}");
    assert!(kept > 10, "too little was mirrored to tell: {summary}");
    assert_eq!(promotion.missing_count, promotion.missing.len() as u64, "the list is cut short");
    if !matches!(fate, Fate::Safe | Fate::Promised) {
        assert!(lost > 0, "nothing is lost, so the table is too dark: {summary}");
    }
    match fate {
        // This scene promises 1e-3 at most: of a thousand runs one may see a loss.
        Fate::Safe | Fate::Promised => assert_eq!(lost, 0, "{summary}"),
        Fate::NotLeft | Fate::NotArrived => assert_eq!(listed, lost, "{summary}"),
        Fate::Stranded => assert!(listed < lost, "all is listed, so the table is too dark: {summary}"),
        Fate::NotSynced => assert_eq!(listed, 0, "some is listed, so the table is too dark: {summary}"),
    }
}

/// The rolling disaster of `parhelion drill`, in the form of namespaces where the system allows it.
fn drill(mode: Mode, fate: Fate) {
    let exit_delay = format!("link.site_exit_delay={SITE_EXIT_DELAY}");
    let options =
        ["--modes", mode.name(), "--seconds", "1.5", "--rate", "40Mbit", "--loss", "1%", "--burst", "1"];
    let directory = tempfile::tempdir().unwrap();
    let json = directory.path().join("drill.json");
    let json_text = json.display().to_string();
    let arguments = ["drill", "--json", &json_text, "--set", &exit_delay].into_iter().chain(options);
    let drill = Tool::new(arguments).run().done();
    let report: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    let run = &report["runs"][0];
    let count = |name: &str| run["lost"][name].as_u64().unwrap();
    assert!(run["acked_appends"].as_u64().unwrap() > 20, "{}", drill.text());
    assert_eq!(count("unnamed"), 0, "{}", drill.text());
    // In the relay form the stream arrives as on a clean line, and little is under way at the cut.
    if fate == Fate::Safe {
        assert_eq!(count("total"), 0, "{}", drill.text());
    } else if run["meets_loss"] == true {
        assert!(count("total") > 0, "nothing is lost, so the table is too dark: {}", drill.text());
    } else {
        parhelion_e2e::skip(&format!("no network of a test's own can be made here: {}", run["notes"]));
    }
}
