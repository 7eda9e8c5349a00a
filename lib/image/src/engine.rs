//! What a container engine needs to make the container again.

use crate::container::Engine;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// A container as its engine knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Configuration {
    /// Whose it is: a native container that came out of a podman archive still has podman's, and can go back.
    pub engine: Engine,
    /// The engine's version: `4.3.1`.
    pub version: String,
    /// The container's whole id there.
    pub id: String,
    /// The command that created it (`podman run …`); empty where the engine does not keep it.
    pub command: Vec<String>,
    /// What the engine's `inspect` says of it, or its `state` where there is no `inspect` (runc).
    pub inspect: Value,
    /// The runtime's configuration it was started with (`config.json` of the bundle, OCI runtime specification).
    pub spec: Value,
    /// The image it was made from; none for a bundle, or a root file system of the user's.
    pub image: Option<Image>,
    /// The networks it was on, in their order.
    pub networks: Vec<Attachment>,
    /// Volumes of the engine's that it has mounted.
    pub volumes: Vec<Volume>,
    /// Whether it has a terminal (`-t`), whose other side the engine holds.
    pub terminal: bool,
}

impl Configuration {
    /// Whether the engine gave the container a seccomp filter, which then is the first one of each of its tasks.
    pub fn has_filter(&self) -> bool {
        let seccomp = self.spec.pointer("/linux/seccomp");
        seccomp.is_some_and(Value::is_object)
    }
}

/// A container image (OCI image specification), by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// `localhost/web:latest`.
    pub name: String,
    /// Its id: the digest of its configuration, hexadecimal, without an algorithm's name.
    pub id: String,
    /// The digest of its manifest (`sha256:…`), where the engine knows it.
    pub digest: Option<String>,
}

/// One network of an engine's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attachment {
    /// The network's name: `podman`, `bridge`.
    pub network: String,
    /// Addresses the container had on it.
    pub addresses: Vec<IpAddr>,
    /// Its hardware address on it.
    pub mac: Option<String>,
    /// Names it was also known by on it.
    pub aliases: Vec<String>,
}

/// A volume of an engine's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// Its name; for one that was made without (`-v /data`) what the engine called it.
    pub name: String,
    /// Whether it was made for this container alone, without a name.
    pub anonymous: bool,
    /// Where it is mounted.
    pub destination: String,
    /// What holds it: `local`.
    pub driver: String,
    /// The driver's options.
    pub options: BTreeMap<String, String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}
