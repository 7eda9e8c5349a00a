# A container with much inside it: links and a packet filter, System V IPC, a file system in memory, control groups beneath
# its own, namespaces of a part of its tree. As process 1 of its namespaces.
set -e
sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1
ip link add b0 type bridge
ip addr add 10.1.0.1/24 dev b0
ip link set b0 up
ip link add v1 type veth peer name v2
ip link set v1 master b0 up
ip link set v2 up
until ip link show b0 | grep -q 'state UP'; do sleep 0.01; done
nft add table inet guard
ipcmk -M 65536
ipcmk -S 3
ipcmk -Q
mount -t tmpfs tmpfs /mnt
seq 1000 >/mnt/numbers
own=/sys/fs/cgroup/pids$(sed -n 's/^[0-9]*:pids://p' /proc/self/cgroup)
mkdir -p "$own/parts/inner"
(echo "$BASHPID" >"$own/parts/inner/cgroup.procs" && exec sleep 1000) &
unshare --user --map-root-user --pid --fork --mount-proc --net --ipc --uts bash -c 'echo inside; exec sleep 1001' &
exec sleep 1002
