//! Two hosts between which containers move with their addresses, and a third one whose programs talk to them all the time.

use crate::{Host, Program, Restored};

/// The network that `restore` gives containers their addresses from.
const NETWORK: &str = "10.213.64.0/20";

/// Two hosts, and a third with a cable to each, that reaches containers by way of whichever it is told.
#[derive(Debug)]
pub struct World {
    /// Between these containers move.
    pub hosts: [Host; 2],
    /// From here they are talked to.
    pub client: Host,
}

impl World {
    /// With no container yet.
    pub fn new() -> Self {
        let world = World {
            hosts: [Host::new("alder"), Host::new("birch")],
            client: Host::new("cedar"),
        };
        for (i, host) in world.hosts.iter().enumerate() {
            world.client.cable(host, &format!("wire{i}"), 4 * i as u8);
            let client = 4 * i + 1;
            host.sh(&format!(
                "sysctl -qw net.ipv4.ip_forward=1 && ip route add 198.51.100.0/24 via 198.51.100.{client}"
            ))
            .ok();
        }
        world.lead_to(0);
        world
    }

    /// The containers' addresses are on this host from now on.
    pub fn lead_to(&self, host: usize) {
        let gateway = 4 * host + 2;
        self.client
            .sh(&format!(
                "ip route replace {NETWORK} via 198.51.100.{gateway}"
            ))
            .ok();
    }

    /// Makes a program on the first host the native container `name`, and gives its address.
    pub fn contained(&self, program: &Program<'_>, name: &str) -> String {
        let host = &self.hosts[0];
        let file = host.path("start.ckpt").display().to_string();
        host.sh(&format!("checkpoint pid:{} | pack > {file}", program.pid))
            .ok();
        let report = host
            .sh(&format!(
                "restore --json --network bridge -n {name} < {file}"
            ))
            .ok();
        Restored::read(&report).addresses[0].clone()
    }

    /// Moves a container from one host to the other, with its address and its connections; where it is now, and its pid
    /// there.
    pub fn moved(&self, name: &str, address: &str, from: usize) -> (usize, i32) {
        let to = 1 - from;
        let file = self.client.path("moved.ckpt").display().to_string();
        self.hosts[from]
            .sh(&format!(
                "checkpoint --tcp established native:{name} | pack > {file}"
            ))
            .ok();
        let report = self.hosts[to]
            .sh(&format!(
                "restore --json -n {name} --tcp established < {file}"
            ))
            .ok();
        let restored = Restored::read(&report);
        assert_eq!(restored.addresses, [address]);
        self.lead_to(to);
        (to, restored.pid)
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}
