#!/bin/sh
# on-disk.sh MBPS [BENCHMARK]: the benchmarks on a disk that writes so many MB/s, as docs/benchmarks.md has them for 300 and 125.
# The disk is an ext4 file system in a file, on a loop device that the kernel's blkio controller (cgroup v1) slows down. Needs root
# and 26 GB; all of it is taken away at the end.
set -eu

mbps=${1:?how many MB/s may the disk write?}
what=${2:-.}
limit=/sys/fs/cgroup/blkio/blkio.throttle.write_bps_device
[ "$(id -u)" = 0 ] || { echo "a slower disk is made with losetup and mount, which need root" >&2; exit 1; }
[ -w "$limit" ] || { echo "no $limit here, which slows the disk down: only cgroup v1 has it for everybody's writes" >&2; exit 1; }
cd "$(dirname "$0")"

image=$(mktemp "${REQUORUM_BENCH_DIR:-/var/tmp}/requorum-disk-XXXXXX")
disk=$(mktemp -d)
device=''
number=''
end() {
	trap '' INT TERM
	[ -z "$number" ] || echo "$number 0" >"$limit"
	! mountpoint -q "$disk" || umount "$disk" || umount --lazy "$disk" # what still runs there ends without it
	[ -z "$device" ] || losetup --detach "$device"
	rm -f "$image"
	rmdir "$disk"
}
trap end EXIT
trap 'exit 1' INT TERM

truncate --size 26G "$image"
device=$(losetup --find --show --direct-io=on "$image")
mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 "$device"
mount "$device" "$disk"
mkdir "$disk/tmp"
sync
number=$(lsblk --nodeps --noheadings --output MAJ:MIN "$device" | tr -d ' ')
echo "$number $((mbps * 1000000))" >"$limit"

start=$(date +%s%N)
dd if=/dev/zero of="$disk/tmp/try" bs=1M count=256 conv=fsync status=none
echo "the disk takes $((256 * 1048576 * 1000 / ($(date +%s%N) - start))) MB/s"
rm "$disk/tmp/try"
REQUORUM_BENCH_DIR=$disk TMPDIR=$disk/tmp go test -run '^$' -bench "$what" -benchtime 1x -timeout 120m .
