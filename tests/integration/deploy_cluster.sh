#!/bin/sh
# deploy/cluster: up, status and down, each twice; a node that was killed; what cannot work.
set -u
dir=$(mktemp -d)
finish() {
    cluster down >/dev/null 2>&1
    [ -z "${other-}" ] || kill "$other" 2>/dev/null
    rm -rf "$dir"
}
trap finish EXIT
trap 'exit 1' INT TERM
fail() {
    echo "deploy_cluster: $*" >&2
    tail -n 20 "$dir"/*.txt >&2
    exit 1
}
cluster() { deploy/cluster "$@" --build "$BUILD" --dir "$dir/nodes"; }
up() { cluster up --port 0 --ram 64MiB "$@" >"$dir/up.txt" 2>&1; }
line() { sed -n 's/^--nodes //p' "$dir/up.txt"; }
pids() { cat "$dir"/nodes/n*.pid 2>/dev/null; }

cluster status >"$dir/status.txt" 2>&1 && fail "status succeeds where nothing was started"
cluster down >"$dir/down.txt" 2>&1 || fail "down fails where nothing was started"

up -n 3 || fail "up failed"
nodes=$(line)
[ "$(echo "$nodes" | tr , '\n' | grep -c '^n[1-3]@127.0.0.1:[1-9]')" -eq 3 ] || fail "no line of three nodes, but '$nodes'"
before=$(pids)
[ "$(echo "$before" | wc -l)" -eq 3 ] || fail "not three pid files"
"$BUILD/scoutkv" stats --nodes "$nodes" >"$dir/stats.txt" 2>&1 || fail "the line does not work in scoutkv"

up -n 3 || fail "up again failed"
[ "$(line)" = "$nodes" ] && [ "$(pids)" = "$before" ] || fail "up again changed something"
cluster status >"$dir/status.txt" 2>&1 || fail "status failed while all run"
[ "$(grep -c 'pid .* resident' "$dir/status.txt")" -eq 3 ] || fail "status does not show three processes"

kill -KILL "$(cat "$dir/nodes/n2.pid")"
sleep 0.3
cluster status >"$dir/status.txt" 2>&1 && fail "status succeeds with a node killed"
grep -q 'n2 *NOT RUNNING' "$dir/status.txt" || fail "status does not say that n2 is gone"
up -n 3 || fail "up after a kill failed"
grep -q 'n2 had ended' "$dir/up.txt" || fail "up does not say that n2 begins anew"
[ "$(line)" = "$nodes" ] || fail "n2 came back at another address"

# A pid file of another program's process: it isn't ours, and must live.
sleep 60 &
other=$!
kill -KILL "$(cat "$dir/nodes/n3.pid")"
sleep 0.3
echo $other >"$dir/nodes/n3.pid"
all=$(cat "$dir/nodes/n1.pid" "$dir/nodes/n2.pid")
cluster down >"$dir/down.txt" 2>&1 || fail "down failed"
kill -0 $other || fail "down killed a process that is not a node"
for pid in $all; do
    [ ! -e "/proc/$pid/fd/2" ] || fail "down left process $pid running"
done
[ -z "$(pids)" ] || fail "down left pid files"
cluster down >"$dir/down.txt" 2>&1 || fail "down again failed"

# A taken port: said, with nothing left behind.
up -n 1 || fail "up of one node failed"
port=$(line | sed 's/.*://')
deploy/cluster up -n 1 --port "$port" --ram 64MiB --build "$BUILD" --dir "$dir/second" >"$dir/second.txt" 2>&1 &&
    fail "two nodes share a port"
grep -q 'did not start' "$dir/second.txt" || fail "a taken port is not explained"
ls "$dir"/second/*.pid >/dev/null 2>&1 && fail "a failed up left a pid file"
deploy/cluster up --build "$dir/nowhere" --dir "$dir/third" >"$dir/third.txt" 2>&1 && fail "it starts without programs"
grep -q 'run make' "$dir/third.txt" || fail "missing programs are not explained"
deploy/cluster sideways >"$dir/usage.txt" 2>&1
[ $? -eq 2 ] || fail "a mistake does not end with 2"
