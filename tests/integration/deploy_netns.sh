#!/bin/sh
# deploy/netns: hosts with nodes, twice side by side; every kind of cut and its end; nothing left behind.
set -u
dir=$(mktemp -d)
finish() {
    netns down >/dev/null 2>&1
    other down >/dev/null 2>&1
    rm -rf "$dir"
}
trap finish EXIT
trap 'exit 1' INT TERM
fail() {
    echo "deploy_netns: $*" >&2
    tail -n 20 "$dir"/*.txt >&2
    exit 1
}
netns() {
    verb=$1
    shift
    deploy/netns "$verb" --build "$BUILD" --dir "$dir/one" "$@"
}
other() {
    verb=$1
    shift
    deploy/netns "$verb" --build "$BUILD" --dir "$dir/two" "$@"
}
# answers HOST: does its node answer to h0?
answers() {
    netns exec h0 "$BUILD/scoutkv" stats --timeout-ms 1000 --nodes "10.97.0.1${1#h}:7071" >"$dir/stats.txt" 2>&1
}
received() { # HOST: packets so far
    netns exec "$1" cat /sys/class/net/eth0/statistics/rx_packets
}
status_says() {
    netns status >"$dir/status.txt" 2>&1
    grep -q "$1" "$dir/status.txt" || fail "status does not say '$1'"
}

netns sideways >"$dir/usage.txt" 2>&1
[ $? -eq 2 ] || fail "a mistake does not end with 2"
netns down >"$dir/down.txt" 2>&1 || fail "down fails where nothing is"
netns status >"$dir/status.txt" 2>&1 && fail "status succeeds where nothing is"

interfaces=$(ls /sys/class/net)
netns up -n 2 --ram 32MiB >"$dir/up.txt" 2>&1
case $? in
0) ;;
77)
    echo "SKIPPED: $(cat "$dir/up.txt")"
    exit 77
    ;;
*) fail "up failed" ;;
esac
grep -q '^--nodes n1@10.97.0.11:7071,n2@10.97.0.12:7071$' "$dir/up.txt" || fail "up does not print a --nodes line of two"
[ "$(ls /sys/class/net)" = "$interfaces" ] || fail "this machine's own interfaces have changed"
netns status >"$dir/status.txt" 2>&1 || fail "status failed though all is well"
answers h1 && answers h2 || fail "the nodes do not answer"
before=$(cat "$dir"/one/n*.pid)
netns up -n 2 --ram 32MiB >"$dir/up.txt" 2>&1 || fail "up again failed"
[ "$(cat "$dir"/one/n*.pid)" = "$before" ] || fail "up again changed something"

# Another network with the same addresses; they do not meet.
other up -n 1 --ram 32MiB >"$dir/other.txt" 2>&1 || fail "a second network failed"
kill -KILL "$(cat "$dir/two/n1.pid")"
answers h1 || fail "a node of the first network died with one of the second"
other down >"$dir/other.txt" 2>&1 || fail "down of the second network failed"
answers h1 || fail "down took nodes of the other network"

# Links.
netns cut h1 || fail "cut failed"
status_says 'h1 .* link cut$'
answers h1 && fail "h1 answers though it is cut off"
answers h2 || fail "h2 is cut off with h1"
netns heal h1 || fail "heal failed"
answers h1 || fail "h1 does not answer after heal"
netns cut h1 in || fail "cut in failed"
status_says 'h1 .* link cut in$'
heard=$(received h1)
answers h1 && fail "h1 answers though nothing reaches it"
[ "$(received h1)" -eq "$heard" ] || fail "cut in let something in"
netns heal h1 || fail "heal failed"
answers h1 || fail "h1 does not answer after heal"
netns cut h1 out || fail "cut out failed"
status_says 'h1 .* link cut out$'
heard=$(received h1)
answers h1 && fail "h1 answers though nothing that it sends arrives"
[ "$(received h1)" -gt "$heard" ] || fail "cut out let nothing in"
netns heal h1 || fail "heal failed"
answers h1 || fail "h1 does not answer after heal"
netns cut h9 >"$dir/cut.txt" 2>&1 && fail "a host that is not there was cut"
grep -q 'no host h9' "$dir/cut.txt" || fail "it does not say that there is no h9"

# A node that died comes back where it was; what exec started ends with the network.
kill -KILL "$(cat "$dir/one/n2.pid")"
sleep 0.3
status_says 'n2 *NOT RUNNING'
netns up -n 2 --ram 32MiB >"$dir/up.txt" 2>&1 || fail "up after a kill failed"
grep -q 'n2 had ended' "$dir/up.txt" || fail "up does not say that n2 begins anew"
answers h2 || fail "n2 does not answer after up"
netns exec h2 sleep 100 2>/dev/null &
sleeper=$!
for _ in $(seq 50); do # until it is there
    [ "$(cat "/proc/$sleeper/comm" 2>/dev/null)" != sleep ] || break
    sleep 0.1
done
all=$(cat "$dir"/one/n*.pid)
netns down >"$dir/down.txt" 2>&1 || fail "down failed"
for pid in $all $sleeper; do
    [ ! -e "/proc/$pid/fd/2" ] || fail "down left process $pid running"
done
[ -z "$(ls "$dir"/one/*.pid 2>/dev/null)" ] || fail "down left pid files"
netns status >"$dir/status.txt" 2>&1 && fail "down left hosts"
netns down >"$dir/down.txt" 2>&1 || fail "down again failed"
[ "$(ls /sys/class/net)" = "$interfaces" ] || fail "this machine's own interfaces have changed"
