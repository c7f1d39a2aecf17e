#!/bin/sh
# A memory node with a disk is killed with SIGKILL while it is written to, again and again: what it acknowledged
# as durable is there afterwards, and no byte is wrong. ROUNDS=200 is the full run; SEED moves the moments.
set -u
rounds=${ROUNDS:-6} seed=${SEED:-1}
dir=$(mktemp -d)
node= load=
finish() {
    kill -KILL $node $load 2>/dev/null
    rm -rf "$dir"
}
trap finish EXIT
trap 'exit 1' INT TERM
fail() {
    echo "store_kill: round $round, SEED=$seed: $*" >&2
    tail -n 5 "$dir/err" | sed 's/^/  node: /' >&2
    exit 1
}
start() {
    : >"$dir/out"
    : >"$dir/err"
    "$BUILD/scoutkv-memnode" --listen 127.0.0.1:0 --ram 48MiB --id killed --disk "$dir/disk:${size}MiB" \
        >"$dir/out" 2>>"$dir/err" &
    node=$!
    for _ in $(seq 600); do
        address=$(sed -n 's/^listening on tcp:\/\///p' "$dir/out")
        [ -z "$address" ] || return 0
        kill -0 "$node" 2>/dev/null || break
        sleep 0.05
    done
    fail "the node did not start"
}
check() { # LOG
    "$BUILD/scoutkv" check --nodes "$address" --log "$1" --timeout-ms 60000 >"$dir/check" 2>&1 ||
        fail "scoutkv check says of $(basename "$1"): $(tr '\n' ' ' <"$dir/check")"
}
# So much fits that nothing is evicted: 64 MiB a round at most, and the segments that must stay free.
size=$((rounds * 96 + 512))
acks=0
for round in $(seq "$rounds"); do
    start
    "$BUILD/scoutkv" load --nodes "$address" --seed $((seed * 1000 + round)) --count 1000 --size 65536 \
        --ack durable --log "$dir/acks.$round" >/dev/null 2>&1 &
    load=$!
    for _ in $(seq 600); do # until then PUTs are told to wait
        ! grep -q 'index complete' "$dir/err" || break
        sleep 0.02
    done
    for _ in $(seq 600); do # it may take a busy machine a while to begin
        [ ! -e "$dir/acks.$round" ] || break
        sleep 0.02
    done
    sleep "$(awk "BEGIN { srand($seed * 1000 + $round); print 0.01 + rand() * 0.15 }")"
    kill -KILL "$node"
    wait "$node" "$load" 2>/dev/null
    load=
    acks=$((acks + $(grep -c '^block' "$dir/acks.$round")))
    start
    check "$dir/acks.$round"
    kill -KILL "$node"
    wait "$node" 2>/dev/null
done
[ "$acks" -gt 0 ] || fail "nothing was acknowledged, so nothing was tested"
start
for round in $(seq "$rounds"); do
    check "$dir/acks.$round"
done
echo "$rounds rounds, $acks durable acks, 0 lost, 0 wrong"
