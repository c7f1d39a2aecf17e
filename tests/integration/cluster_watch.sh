#!/bin/sh
# `scoutkv cluster watch` on real nodes: one that comes back in time keeps its place, one that stays away is taken out
# and its copies are made again, and none is while as many are away as there are replicas.
. tests/integration/cli_common
. tests/integration/cluster_common

watch_says() { # PATTERN: in 30 seconds
    for _ in $(seq 300); do
        grep -q -- "$1" "$dir/watch" && return 0
        sleep 0.1
    done
    fail "watch did not say '$1': $(cat "$dir/watch")"
}
kill_node() {
    eval "pid=\$pid_$1"
    kill -KILL "$pid"
    wait "$pid" 2>/dev/null
}

list=
for i in 1 2 3 4; do
    start_node "n$i" 127.0.0.1:0
    eval "a$i=$address"
    list=$list${list:+,}n$i@$address
done
ends 0 load --nodes "$list" --replicas 2 --count 400 --size 16K --seed 4 --log "$dir/acks"
scan 0 "$list" blocks=400 in_place=400 missing=0 elsewhere=0 lost=0

ends 2 cluster watch --nodes "$list" --replicas 2 --rebuild-after soon
says 'rebuild-after'
"$scoutkv" cluster watch --nodes "$list" --replicas 2 --rebuild-after 4s --every 1s --timeout-ms 1000 >"$dir/watched" 2>"$dir/watch" &
watcher=$!
pids="$pids $watcher"
watch_says 'looking after 4 nodes'

# Back in time, and empty: it stays, and gets its copies again.
kill_node n2
watch_says 'n2 is away'
start_node n2 "$a2"
watch_says 'n2 is back'
watch_says 'copies made'
grep -q 'it is taken out' "$dir/watch" && fail "n2 was taken out though it was back in time"
scan 0 "$list" blocks=400 in_place=400 missing=0 elsewhere=0 lost=0

# It stays away: without it all blocks have two copies again.
kill_node n3
watch_says 'n3 is away for more than 4'
for _ in $(seq 300); do
    "$scoutkv" cluster status --nodes "$a1" --replicas 2 --scan --json --timeout-ms 1000 >"$dir/out" 2>&1 &&
        grep -q '"in_place": 400,\?$' "$dir/out" && break
    sleep 0.1
done
scan 0 "$a1" blocks=400 in_place=400 missing=0 elsewhere=0 lost=0 absent_nodes=0
ends 0 check --nodes "$a1" --replicas 2 --log "$dir/acks"

# It comes back as the log says.
start_node n3 "$a3"
ends 0 cluster add --node "$(sed -n 's/.*scoutkv cluster add --node \(n3@.*\)$/\1/p' "$dir/watch")" --nodes "$a1" --replicas 2
watch_says 'the cluster has 4 nodes now (epoch 2)'
scan 0 "$a1" blocks=400 in_place=400 missing=0 elsewhere=0 absent_nodes=0
kill -TERM "$watcher"
wait "$watcher" || fail "watch ended with status $?"

# While the copies of one that was taken out are being made again, slowly, another stops: of blocks that only these two
# had, it has the last copy, and keeps its place.
"$scoutkv" cluster watch --nodes "$list" --replicas 2 --rebuild-after 2s --every 1s --rate 128K --timeout-ms 1000 >"$dir/watched" 2>"$dir/watch" &
watcher=$!
pids="$pids $watcher"
watch_says 'looking after 4 nodes'
kill_node n3
watch_says 'n3 is away for more than 2'
trap 'kill -CONT "$pid_n4" 2>/dev/null; finish' EXIT # a stopped process does not end
kill -STOP "$pid_n4"
watch_says 'data may be lost'
sleep 5
grep -q 'n4 is away for more' "$dir/watch" && fail "n4 was taken out with the last copy of blocks: $(cat "$dir/watch")"
kill -CONT "$pid_n4"
kill -TERM "$watcher"
wait "$watcher" || fail "watch ended with status $?"
ends 0 cluster rebalance --nodes "$a1" --replicas 2
scan 0 "$a1" blocks=400 in_place=400 missing=0 elsewhere=0 absent_nodes=0
ends 0 check --nodes "$a1" --replicas 2 --log "$dir/acks"

# Two of three: nobody is taken out.
"$scoutkv" cluster watch --nodes "$a1" --replicas 2 --rebuild-after 2s --every 1s --timeout-ms 1000 >"$dir/watched" 2>"$dir/watch" &
watcher=$!
pids="$pids $watcher"
watch_says 'looking after 3 nodes'
kill_node n2
kill_node n4
watch_says 'data may be lost'
sleep 5
grep -q 'it is taken out' "$dir/watch" && fail "a node was taken out while two of three were away"

kill -TERM "$watcher"
wait "$watcher" || fail "watch ended with status $?"
