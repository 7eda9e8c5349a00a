//! `groups.json`: control groups beneath those of the container, which it has made for parts of itself (cgroups(7)), and
//! who is in them. The record is there only where there are any.

use super::Limits;
use crate::ids::Pid;
use crate::path::Name;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Component;

/// More than the kernel lets anybody make deep.
const DEEPEST: usize = 64;

/// All of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Groups {
    /// Those above before those beneath.
    pub groups: Vec<Group>,
}

/// A group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Its hierarchy, as in [`super::Membership::controllers`].
    pub controllers: String,
    /// Its path from the container's own group; empty for that one itself.
    pub path: Name,
    /// What it limits, of what its hierarchy has.
    pub limits: Limits,
    /// Other files of it that hold one word or number, by their names.
    pub properties: BTreeMap<String, String>,
    /// Version 2: its tasks may be in different groups, thread by thread (`cgroup.type`).
    pub threaded: bool,
    /// Version 2: the controllers that the groups beneath it have (`cgroup.subtree_control`).
    pub delegated: Vec<String>,
    /// Threads that are in it, by their ids, in order.
    pub tasks: Vec<Pid>,
}

impl Groups {
    /// Whether there is nothing to say.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// What is wrong with it: a group that is not beneath the container's, comes twice or before the one it is in, or has
    /// a task that another of its hierarchy has too.
    pub fn check(&self) -> Result<(), String> {
        let mut known: BTreeSet<(&str, &Name)> = BTreeSet::new();
        let mut placed = BTreeSet::new();
        for group in &self.groups {
            let (hierarchy, path) = (group.controllers.as_str(), &group.path);
            let parts: Vec<Component> = path.as_path().components().collect();
            let plain = parts
                .iter()
                .all(|part| matches!(part, Component::Normal(_)));
            if !plain || parts.len() > DEEPEST {
                return Err(format!(
                    "the cgroup {path} is not beneath the container's own"
                ));
            }
            let above = path.as_path().parent().map(Name::from);
            let missing =
                above.filter(|above| !above.0.is_empty() && !known.contains(&(hierarchy, above)));
            if missing.is_some() || !known.insert((hierarchy, path)) {
                return Err(format!(
                    "the cgroup {path} comes twice, or before the one it is in"
                ));
            }
            if let Some(task) = group
                .tasks
                .iter()
                .find(|task| !placed.insert((hierarchy, **task)))
            {
                return Err(format!("task {task} is in two cgroups of one hierarchy"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(path: &str, tasks: &[Pid]) -> Group {
        Group {
            controllers: "pids".into(),
            path: path.into(),
            limits: Limits::default(),
            properties: BTreeMap::new(),
            threaded: false,
            delegated: Vec::new(),
            tasks: tasks.to_vec(),
        }
    }

    #[test]
    fn groups_stay_beneath_the_containers_own() {
        for path in ["..", "a/../b", "/a", "a/./../../b"] {
            let groups = vec![group("a", &[]), group(path, &[])];
            assert!(Groups { groups }.check().is_err(), "{path}");
        }
        let good = vec![group("", &[1]), group("a", &[2, 3]), group("a/b", &[])];
        assert_eq!(Groups { groups: good }.check(), Ok(()));
    }

    #[test]
    fn each_comes_once_and_after_the_one_it_is_in() {
        for groups in [
            vec![group("a/b", &[])],
            vec![group("a", &[]), group("a", &[])],
            vec![group("a", &[1]), group("b", &[1])],
        ] {
            assert!(Groups { groups }.check().is_err());
        }
    }
}
