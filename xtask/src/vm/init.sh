#!/bin/busybox sh
# The first process: puts a writable layer over the root of the machine outside, and hands over to a script there.
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
while read -r module; do
    insmod "/modules/$module"
done </modules/order
mount -t tmpfs layer /layer
mkdir /layer/upper /layer/work
mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=1048576 outside /outside
mount -t overlay -o lowerdir=/outside,upperdir=/layer/upper,workdir=/layer/work merged /merged
for moved in dev proc sys; do
    mount --move /$moved /merged/$moved
done
script=$(sed 's/.*netbpf.script=\([^ ]*\).*/\1/' /merged/proc/cmdline)
exec switch_root /merged /bin/bash "$script"
