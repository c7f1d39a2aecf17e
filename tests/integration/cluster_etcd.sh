#!/bin/sh
# A cluster found through a real etcd. While a run decodes, a node joins and gets its share, etcd is killed and
# comes back, and another node is drained and removed: the same tokens as without all that, and afterwards every block
# has its copies where it belongs.
. "$(dirname "$0")/cli_common"
command -v etcd >/dev/null || {
    echo "etcd is not installed (package etcd-server)"
    exit 77
}

etcd() { deploy/etcd "$1" --port "$port" --dir "$dir/etcd"; }
down_all() {
    etcd down >/dev/null 2>&1
    finish
}
trap down_all EXIT

start_etcd() { # on ports that are free
    for port in $(awk 'BEGIN { srand(); for (i = 0; i < 20; i++) print 20000 + 2 * int(rand() * 6000) }'); do
        etcd up >"$dir/etcd.out" 2>&1 && return 0
    done
    fail "etcd does not start: $(cat "$dir/etcd.out")"
}
start_node() { # NAME
    "$BUILD/scoutkv-memnode" --listen 127.0.0.1:0 --id "$1" --ram 256MiB --etcd "127.0.0.1:$port" \
        >"$dir/$1" 2>"$dir/$1.log" &
    pids="$pids $!"
    eval "pid_$1=$!"
    await "$1 did not join" grep -qs 'joined the cluster.s view' "$dir/$1.log"
}
await() { # WHAT COMMAND…
    what=$1
    shift
    for _ in $(seq 300); do
        "$@" && return 0
        sleep 0.1
    done
    fail "$what"
}
field() { # NAME VALUE
    grep -q "\"$1\": $2,\?\$" "$dir/out" || fail "the scan does not say $1 = $2: $(cat "$dir/out")"
}
ids() { # FILE
    sed 's/.*"ids":\[\([^]]*\)\].*/\1/' "$1"
}
goes_on() { # AFTER
    kill -0 "$run" 2>/dev/null || fail "the run ended before $1: it was to be disturbed by it; give it more tokens"
}

start_etcd
cluster=etcd://127.0.0.1:$port
ends 1 stats --nodes "$cluster"
says 'knows no memory node'
for node in n1 n2 n3; do
    start_node $node
done
ends 0 cluster status --nodes "$cluster"
prints '^n3 .* up '

ends 0 make-model random -o "$dir/random.gguf" --layers 3 --dim 128 --heads 4 --kv-heads 2 --ff 128
seq 1 700 | tr '\n' ' ' >"$dir/prompt"
set -- run -m "$dir/random.gguf" -f "$dir/prompt" -c 20000 -n 9000 --ignore-eos --window 64 --budget 64 --cache 64KiB --json
ends 0 "$@"
ids "$dir/out" >"$dir/undisturbed"

"$scoutkv" "$@" --nodes "$cluster" --replicas 2 >"$dir/run.out" 2>"$dir/run.err" </dev/null &
run=$!
pids="$pids $run"
blocks_there() {
    "$scoutkv" cluster status --nodes "$cluster" 2>/dev/null | grep -q '^n1 .* up  *1  *[0-9]*  *[1-9][0-9]'
}
await "no blocks came" blocks_there
start_node n4
rc=0 # 1: the run wrote a block meanwhile that has not all of its copies yet
"$scoutkv" cluster rebalance --nodes "$cluster" --replicas 2 --passes 1 >"$dir/out" 2>"$dir/err" || rc=$?
[ "$rc" -le 1 ] || fail "rebalance ended with status $rc: $(cat "$dir/out" "$dir/err")"
goes_on "n4 had its share"
kill -KILL "$(cat "$dir/etcd/pid")"
await "n1 did not notice" grep -q 'not in etcd any more.*serving on' "$dir/n1.log"
ends 4 stats --nodes "$cluster" # who begins now cannot know the nodes
says 'does not answer'
sleep 2 # the run asks etcd twice a second
goes_on "etcd was gone"
etcd up >"$dir/etcd.out" 2>&1 || fail "etcd does not come back: $(cat "$dir/etcd.out")"
await "n1 did not come back" grep -q 'in etcd again' "$dir/n1.log"
"$scoutkv" cluster drain --node n1 --nodes "$cluster" --replicas 2 >"$dir/drain.out" 2>"$dir/drain.err"
goes_on "n1 was drained"
wait "$run" || fail "the run failed: $(cat "$dir/run.err")"
ids "$dir/run.out" >"$dir/disturbed"
same "$dir/undisturbed" "$dir/disturbed" "other tokens than without all that"
grep -q '"etcd_lost": *[1-9]' "$dir/run.out" || fail "the run does not say that etcd was gone: $(tail -c 600 "$dir/run.out")"

ends 0 cluster drain --node n1 --nodes "$cluster" --replicas 2 # what came meanwhile
ends 0 cluster status --nodes "$cluster" --replicas 2 --scan --json
field missing 0
field elsewhere 0
field lost 0
ends 0 cluster remove --node n1 --nodes "$cluster" --replicas 2
ends 0 cluster status --nodes "$cluster"
prints '^n4 .* up '
grep -q '^n1' "$dir/out" && fail "n1 was not removed"
kill "$pid_n4"
wait "$pid_n4" || fail "n4 does not end well: $(cat "$dir/n4.log")"
ends 1 stats --nodes 'etcd://'
ends 4 stats --nodes 'etcd://127.0.0.1:1'
"$BUILD/scoutkv-memnode" --listen 0.0.0.0:0 --id n5 --etcd "127.0.0.1:$port" >"$dir/out" 2>"$dir/err" && fail "n5 runs"
says 'give --advertise'
