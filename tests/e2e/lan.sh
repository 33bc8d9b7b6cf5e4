#!/bin/sh
# Makes a LAN of N machines out of network namespaces and holds it until standard input ends.
# Run it in a user and network namespace of its own:  unshare -Urn --fork --kill-child sh lan.sh N
# With a second word, `quiet`, nothing that is addressed to a group crosses the LAN: no mDNS.
# Prints one process id a line; `nsenter -t ID -U -n --preserve-credentials` is on that machine.
set -eu
# Every process here ends with standard input, however the test ends.
exec 3<&0
ip link add lan type bridge
ip link set lan up
mine=$(readlink /proc/self/ns/net)
number=0
while [ "$number" -lt "$1" ]; do
    number=$((number + 1))
    unshare --net cat <&3 >/dev/null 2>&1 &
    machine=$!
    until theirs=$(readlink "/proc/$machine/ns/net") && [ "$theirs" != "$mine" ]; do sleep 0.01; done
    ip link add "port$number" type veth peer name eth0 netns "$machine"
    ip link set "port$number" master lan up
    if [ "${2:-}" = quiet ]; then
        ip link set "port$number" type bridge_slave mcast_flood off
    fi
    nsenter -t "$machine" -n ip -batch - <<EOF
link set lo up
link set eth0 up
addr add 10.77.0.$number/24 dev eth0
route add default via 10.77.0.254 dev eth0
EOF
    echo "$machine"
done
exec cat <&3 > /dev/null
