#!/bin/sh
# Packets per second over your own network cards: the kernel's generator sends 60-byte UDP to a published port, and the receiver
# counts. As root, on the machine that sends:
#
#   sh pktgen.sh DEVICE DESTINATION-IP DESTINATION-MAC PORT [SECONDS] [FLOWS]
#
# On the machine that receives, inside the container, beside it: `cat /sys/class/net/eth0/statistics/rx_packets` before and after,
# or `netbpf status`. What counts is what arrives there; what the generator says it has sent is printed for comparison.
# A single flow takes one queue of the card and one CPU of the receiver.
set -eu

if [ $# -lt 4 ]; then
    sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
device=$1 ip=$2 mac=$3 port=$4 seconds=${5:-10} flows=${6:-1}
proc=/proc/net/pktgen

[ -d "$proc" ] || modprobe pktgen 2>/dev/null || {
    echo "this kernel has no pktgen: build it with CONFIG_NET_PKTGEN, or use another machine as the sender" >&2
    exit 1
}
[ -e "/sys/class/net/$device" ] || {
    echo "there is no device $device here: ip link" >&2
    exit 1
}

tell() {
    echo "$2" >"$proc/$1"
}

trap 'tell kpktgend_0 rem_device_all' EXIT
tell kpktgend_0 rem_device_all
tell kpktgend_0 "add_device $device"
tell "$device" "count 0"
tell "$device" "delay 0"
tell "$device" "pkt_size 60"
tell "$device" "dst $ip"
tell "$device" "dst_mac $mac"
tell "$device" "udp_dst_min $port"
tell "$device" "udp_dst_max $port"
tell "$device" "udp_src_min 16384"
# The first port that does not come.
tell "$device" "udp_src_max $((16384 + flows))"

# `start` returns when it is stopped.
echo start >"$proc/pgctrl" &
starter=$!
sleep "$seconds"
echo stop >"$proc/pgctrl"
wait "$starter"
sed -n '/^Result/,$p' "$proc/$device"
