//! The nodes of a site: which roles this one has, and where the others are.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use parhelion_types::{NodeId, Role};
use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserializer, Serialize, Serializer};

use super::{Duty, Settings, SettingsError, require};

/// A storage node of the site, written `number=address`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StorageNode {
    /// Its number.
    pub node: NodeId,
    /// Address of its API.
    pub api: SocketAddr,
}

/// Text that is no storage node.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no storage node; write its number and the address of its API, such as 2=10.0.0.2:7401")]
pub struct ParseStorageNodeError(String);

impl FromStr for StorageNode {
    type Err = ParseStorageNodeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (node, api) = text.split_once('=')?;
            Some(Self { node: node.trim().parse().ok()?, api: api.trim().parse().ok()? })
        };
        parse().ok_or_else(|| ParseStorageNodeError(text.to_owned()))
    }
}

impl fmt::Display for StorageNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.node, self.api)
    }
}

impl Serialize for StorageNode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Reads a list, or one text with its members between commas or blanks, which is what environment variables and
/// `--set` have.
pub(super) fn words<'de, T, D>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    T: FromStr<Err: fmt::Display>,
    D: Deserializer<'de>,
{
    let words = deserializer.deserialize_any(List { separators: &[',', ' '] })?;
    words.iter().map(|word| word.parse().map_err(Error::custom)).collect()
}

/// Reads a list of paths, or one text with commas between them: a path may have blanks.
pub(super) fn paths<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<PathBuf>, D::Error> {
    let paths = deserializer.deserialize_any(List { separators: &[','] })?;
    Ok(paths.iter().map(|path| PathBuf::from(path.trim())).collect())
}

/// A list of texts, or one text with separators between its members.
struct List {
    separators: &'static [char],
}

impl<'de> Visitor<'de> for List {
    type Value = Vec<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of words")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        let members = text.split(self.separators).filter(|member| !member.is_empty());
        Ok(members.map(str::to_owned).collect())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = list.next_element()? {
            members.push(member);
        }
        Ok(members)
    }
}

/// Reads the roles of a node.
pub(super) fn roles<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeSet<Role>, D::Error> {
    let roles: Vec<Role> = words(deserializer)?;
    match roles.iter().find(|role| !role.is_node()) {
        Some(role) => Err(Error::custom(format!("{role} is no role of a node; {CHOICES}"))),
        None => Ok(roles.into_iter().collect()),
    }
}

const CHOICES: &str = "give some of: metadata, storage, link";

impl Settings {
    /// Whether the node has that role.
    pub fn has(&self, role: Role) -> bool {
        self.node.roles.contains(&role)
    }

    /// Whether it is the only node of its site.
    pub fn is_alone(&self) -> bool {
        self.site.storage.is_empty()
    }

    /// The numbers of the site's storage nodes.
    pub fn storage_nodes(&self) -> Vec<NodeId> {
        if self.is_alone() {
            return vec![NodeId(self.node.node)];
        }
        self.site.storage.iter().map(|node| node.node).collect()
    }

    /// Where other nodes find the API of this one, as far as the settings of the site say it.
    pub fn own_address(&self) -> Option<SocketAddr> {
        let storage = self.site.storage.iter().find(|storage| storage.node.0 == self.node.node);
        let named = |role, address: &str| self.has(role).then(|| address.parse().ok()).flatten();
        storage
            .map(|storage| storage.api)
            .or_else(|| named(Role::Metadata, &self.site.metadata))
            .or_else(|| named(Role::Link, &self.site.link))
    }

    /// Where a link node accepts the site's storage nodes.
    pub fn site_listen(&self) -> Option<SocketAddr> {
        let listen = if self.site.listen.is_empty() { &self.site.gateway } else { &self.site.listen };
        listen.parse().ok()
    }

    /// Checks that roles and nodes fit each other.
    pub(super) fn check_site(&self) -> Result<(), SettingsError> {
        let roles = || self.node.roles.iter().map(|role| role.name()).collect::<Vec<_>>().join(", ");
        require(!self.node.roles.is_empty(), "node.roles", roles(), CHOICES)?;
        for (key, address) in [
            ("site.metadata", &self.site.metadata),
            ("site.link", &self.site.link),
            ("site.gateway", &self.site.gateway),
            ("site.listen", &self.site.listen),
        ] {
            let reason = "give an address such as 10.0.0.1:7401, or nothing";
            require(address.is_empty() || address.parse::<SocketAddr>().is_ok(), key, address, reason)?;
        }
        if self.is_alone() { self.check_alone(&roles()) } else { self.check_together(&roles()) }
    }

    fn check_alone(&self, roles: &str) -> Result<(), SettingsError> {
        let all = [Role::Metadata, Role::Storage, Role::Link].into_iter().all(|role| self.has(role));
        let reason = "the only node of a site needs the roles metadata, storage and link; in a site of several nodes, \
                      list the storage nodes in site.storage";
        require(all, "node.roles", roles, reason)?;
        for (key, address) in [
            ("site.metadata", &self.site.metadata),
            ("site.link", &self.site.link),
            ("site.gateway", &self.site.gateway),
            ("site.listen", &self.site.listen),
        ] {
            let reason = "the site has one node, because site.storage is empty; list the storage nodes there, or leave this empty";
            require(address.is_empty(), key, address, reason)?;
        }
        Ok(())
    }

    fn check_together(&self, roles: &str) -> Result<(), SettingsError> {
        let Self { node, site, .. } = self;
        let nodes = || site.storage.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        for (n, storage) in site.storage.iter().enumerate() {
            let twin =
                site.storage[..n].iter().find(|other| other.node == storage.node || other.api == storage.api);
            let reason =
                format!("{storage} has the number or the address of another one; each node has its own");
            require(twin.is_none(), "site.storage", nodes(), &reason)?;
        }
        let is_listed = site.storage.iter().any(|storage| storage.node.0 == node.node);
        let reason = match self.has(Role::Storage) {
            true => format!("this node, number {}, has the role storage; list it too", node.node),
            false => format!(
                "node.node is {} and lists this node, which has the roles {roles}; give it the role storage, or \
                 another number",
                node.node
            ),
        };
        require(is_listed == self.has(Role::Storage), "site.storage", nodes(), &reason)?;

        let reason = format!("the node has the roles {roles}; say where the API of the metadata node is");
        require(
            self.has(Role::Metadata) || !site.metadata.is_empty(),
            "site.metadata",
            &site.metadata,
            &reason,
        )?;
        if node.duty == Duty::Single {
            return Ok(());
        }
        let reason = if self.has(Role::Link) {
            "the node has the role link; say at which address the storage nodes reach it"
        } else {
            "the node has not the role link; say where it reaches the link node"
        };
        // A metadata node needs no link; the setting may still be there, as it is for the whole site.
        let needed = self.has(Role::Link) || self.has(Role::Storage);
        require(!needed || !site.gateway.is_empty(), "site.gateway", &site.gateway, reason)
    }
}

#[cfg(test)]
mod tests {
    use crate::settings::{Profile, Settings, load};
    use parhelion_types::{NodeId, Role};

    fn settings(set: &[&str]) -> Settings {
        let set: Vec<String> = set.iter().map(|&word| word.to_owned()).collect();
        load(Profile::Mirror, None, None, &set).unwrap().settings
    }

    const SITE: &str = "site.storage=2=10.0.0.2:7401,3=10.0.0.3:7401";

    #[test]
    fn lists_are_read_from_text_and_from_toml() {
        for storage in [SITE, "site.storage=[\"2=10.0.0.2:7401\", \"3=10.0.0.3:7401\"]"] {
            let settings = settings(&[storage, "node.roles=link, metadata"]);
            assert_eq!(settings.storage_nodes(), [NodeId(2), NodeId(3)]);
            assert_eq!(
                settings.site.storage[1].api,
                "10.0.0.3:7401".parse::<std::net::SocketAddr>().unwrap()
            );
            assert!(settings.has(Role::Link) && settings.has(Role::Metadata) && !settings.has(Role::Storage));
        }
        for directories in
            ["storage.directories=/data/a b, /data/c", "storage.directories=[\"/data/a b\", \"/data/c\"]"]
        {
            let settings = settings(&[directories]);
            assert_eq!(settings.storage.directories, ["/data/a b", "/data/c"].map(std::path::PathBuf::from));
        }
        let alone = settings(&["node.node=7"]);
        assert!(alone.is_alone() && alone.has(Role::Storage));
        assert_eq!(alone.storage_nodes(), [NodeId(7)]);
        for bad in
            ["site.storage=10.0.0.2:7401", "site.storage=2=here", "node.roles=client", "node.roles=all"]
        {
            assert!(load(Profile::Mirror, None, None, &[bad.to_owned()]).is_err(), "{bad} was taken");
        }
    }

    #[test]
    fn roles_that_do_not_fit_are_named_with_a_remedy() {
        let gateway = "site.gateway=10.0.0.1:7414";
        let metadata = "site.metadata=10.0.0.1:7401";
        for good in [
            &["node.node=1"][..],
            &[SITE, "node.roles=metadata,link", gateway],
            &[SITE, "node.roles=metadata"],
            &[SITE, "node.roles=link", gateway, metadata],
            &[SITE, "node.node=2", "node.roles=storage", gateway, metadata],
            &[SITE, "node.node=3", gateway],
            &[SITE, "node.node=2", "node.roles=storage", metadata, "node.duty=single"],
        ] {
            settings(good).check().unwrap_or_else(|error| panic!("{good:?}: {error}"));
        }
        for (bad, words) in [
            (&["node.roles="][..], &["node.roles", "metadata, storage, link"][..]),
            (&["node.roles=storage"], &["node.roles", "storage", "site.storage"]),
            (&[gateway], &["site.gateway", "site.storage is empty"]),
            (&[SITE, metadata, gateway], &["site.storage", "number 1", "list it too"]),
            (
                &[SITE, "node.node=2", "node.roles=link", metadata, gateway],
                &["site.storage", "another number"],
            ),
            (&[SITE, "node.node=2", "node.roles=storage", gateway], &["site.metadata", "storage"]),
            (&[SITE, "node.node=2", "node.roles=storage", metadata], &["site.gateway", "link node"]),
            (&[SITE, "node.roles=metadata,link"], &["site.gateway", "reach it"]),
            (&[SITE, "node.roles=metadata", "site.link=there"], &["site.link", "there", "10.0.0.1:7401"]),
            (&["site.storage=1=10.0.0.2:1,1=10.0.0.3:1"], &["site.storage", "its own"]),
        ] {
            let error = settings(bad).check().expect_err("settings that do not fit").to_string();
            for word in words {
                assert!(error.contains(word), "{bad:?}: no {word:?} in {error}");
            }
        }
    }
}
