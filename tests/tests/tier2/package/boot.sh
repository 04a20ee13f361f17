#!/bin/sh
# Boots systemd on a copy of this machine's files that is thrown away. Called as the first process of a PID namespace, in
# mount, cgroup, UTS and IPC namespaces of its own, with a directory to work in: DIRECTORY/upper then has what was changed,
# and DIRECTORY/root is what the copy's processes see.
set -e
here=$1

mount --make-rprivate /
mount -t tmpfs tmpfs "$here"
mkdir "$here/upper" "$here/work" "$here/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$here/upper,workdir=$here/work" "$here/root"
cd "$here/root"

# Nothing of this machine starts there by itself: some of it would write kernel settings that all namespaces share.
find etc/systemd/system usr/lib/systemd/system -name '*.wants' -prune -exec rm -r {} +
rm -rf etc/fstab usr/lib/systemd/system-generators
# What is in it keeps the directory, which goes with the last service otherwise.
mkdir -p etc/systemd/system/multi-user.target.wants
touch etc/systemd/system/multi-user.target.wants/.keep
# Packages may start their services, and leave the index of the manual alone, which takes seconds.
rm -f usr/sbin/policy-rc.d var/lib/man-db/auto-update
# A system call that the unit does not allow ends the agent.
mkdir -p etc/systemd/system/netbpf.service.d
cat > etc/systemd/system/netbpf.service.d/test.conf <<END
[Service]
SystemCallErrorNumber=kill
StandardError=append:/run/netbpf.log
END

mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
# Only settings of the network are a namespace's own, and those netbpf writes.
mount -t proc proc mnt
mount --bind mnt/sys/net proc/sys/net
umount -l mnt
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t bpf bpf sys/fs/bpf
mkdir -p etc/netns
for volatile in dev run tmp etc/netns; do
    mount -t tmpfs tmpfs "$volatile"
done
for device in null zero full random urandom tty; do
    touch "dev/$device"
    mount --bind "/dev/$device" "dev/$device"
done
mkdir dev/shm dev/pts
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx

exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    chroot . /lib/systemd/systemd --system --unit=multi-user.target --show-status=false --log-target=console --log-level=warning
