//! Containers of podman: taken by name, and given back to a podman here or elsewhere as containers like any other.
#![forbid(unsafe_code)]

use ferry_tests::Podman;

#[test]
fn two_hosts_have_a_podman_each() {
    let (alder, birch) = Podman::pair();
    let one = alder.run("hello", "base sh -c 'echo alder; exec sleep 1000'");
    let two = birch.run("hello", "base sh -c 'echo birch; exec sleep 1000'");
    one.says("alder");
    two.says("birch");
    assert_ne!(one.inspect("{{.Id}}"), two.inspect("{{.Id}}"));
    let before = alder.traces();
    alder.run(
        "again",
        "-p 8080:8080 --tmpfs /var/tmp -v data:/data base sleep 1000",
    );
    alder
        .sh("podman rm -f -t 0 again && podman volume rm data")
        .ok();
    alder.assert_none_left(&before);
}
