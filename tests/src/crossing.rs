//! The ways an image takes from one host to another, and what comes out at the end.

use crate::{Host, Program};

/// What stands between `checkpoint` and `restore`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// `checkpoint | restore`.
    Bare,
    /// `checkpoint | pack | verify --pass | unpack | restore`.
    Pipe,
    /// `checkpoint | pack > FILE`, `restore < FILE`.
    File,
    /// `checkpoint > DIR` by `unpack -C`, then `restore DIR`.
    Directory,
    /// `nc` between two hosts, `pack` before it.
    Nc,
    /// `ssh` between two hosts, `pack` before it.
    Ssh,
}

/// A container as `restore --json` reports it.
#[derive(Debug, Clone)]
pub struct Restored {
    /// Its name.
    pub name: Option<String>,
    /// Its root's pid in the host.
    pub pid: i32,
    /// Its addresses, without the prefix length.
    pub addresses: Vec<String>,
}

impl Restored {
    /// Reads the line of JSON.
    #[track_caller]
    pub fn read(json: &str) -> Self {
        let report: serde_json::Value = serde_json::from_str(json.trim())
            .unwrap_or_else(|e| panic!("restore --json said `{json}`: {e}"));
        let words = |key: &str| {
            report
                .get(key)
                .and_then(|v| v.as_array())
                .cloned()
                .unwrap_or_default()
        };
        Restored {
            name: report
                .get("name")
                .and_then(|v| v.as_str())
                .map(str::to_owned),
            pid: report
                .get("pid")
                .and_then(serde_json::Value::as_i64)
                .unwrap_or_else(|| panic!("no pid in `{json}`")) as i32,
            addresses: words("addresses")
                .iter()
                .filter_map(|a| Some(a.as_str()?.split('/').next()?.to_owned()))
                .collect(),
        }
    }
}

impl Way {
    /// Moves a program from its host to `to` (the same host, unless the way is `Nc` or `Ssh`); `words` are given to
    /// `restore`.
    #[track_caller]
    pub fn carry<'h>(
        self,
        program: &Program<'h>,
        to: &'h Host,
        words: &str,
    ) -> (Program<'h>, Restored) {
        let from = program.host;
        let target = format!("pid:{}", program.pid);
        let file = from.path("image.ckpt").display().to_string();
        let folder = from.path("image.d").display().to_string();
        let report = match self {
            Way::Bare => from
                .sh(&format!("checkpoint {target} | restore --json {words}"))
                .ok(),
            Way::Pipe => from
                .sh(&format!(
                    "checkpoint {target} | pack | verify --pass | unpack | restore --json {words}"
                ))
                .ok(),
            Way::File => {
                from.sh(&format!("checkpoint {target} | pack > {file}"))
                    .ok();
                to.sh(&format!("restore --json {words} < {file}")).ok()
            }
            Way::Directory => {
                from.sh(&format!(
                    "rm -rf {folder}; checkpoint {target} | pack | unpack -C {folder}"
                ))
                .ok();
                to.sh(&format!("restore --json {words} {folder}")).ok()
            }
            Way::Nc => {
                let receiver = to
                    .shell(&format!("nc -l -p 7000 | unpack | restore --json {words}"))
                    .stdout(std::process::Stdio::piped())
                    .stderr(std::process::Stdio::piped())
                    .spawn()
                    .expect("nc");
                crate::until("nc to listen", crate::LONG, || {
                    (to.sh("ss -Hltn sport = :7000").stdout.contains(":7000")).then_some(())
                });
                from.sh(&format!(
                    "checkpoint {target} | pack | nc -N {} 7000",
                    address(to)
                ))
                .ok();
                let output = receiver.wait_with_output().expect("wait for nc");
                let (said, errors) = (
                    String::from_utf8_lossy(&output.stdout),
                    String::from_utf8_lossy(&output.stderr),
                );
                assert!(output.status.success(), "nc | unpack | restore: {errors}");
                said.into_owned()
            }
            Way::Ssh => {
                let ssh = to.sshd(&address(to));
                // PATH of the other side is that of its login shell, so the built tools are named in full.
                let tools = crate::built();
                let report = from
                    .sh(&format!(
                        "checkpoint {target} | pack | {ssh} '{0}/unpack | {0}/restore --json {words}'",
                        tools.display()
                    ))
                    .ok();
                to.sh(&format!(
                    "kill $(cat {}/pid); rm -rf {0}",
                    to.path("ssh").display()
                ))
                .ok();
                report
            }
        };
        let restored = Restored::read(&report);
        (program.moved(to, restored.pid), restored)
    }
}

/// The address of a host on the wire of its pair.
fn address(host: &Host) -> String {
    host.sh("ip -o -4 addr show dev wire | awk '{print $4}' | cut -d/ -f1")
        .ok()
}
