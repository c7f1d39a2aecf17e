#!/bin/sh
# --nodes @FILE: nodes join and leave while scoutkv run decodes, told by SIGHUP; the tokens stay the same.
. "$(dirname "$0")/cli_common"

# view EPOCH NODE…: writes $dir/nodes; a NODE is 1, or 1- for one that drains.
view() {
    {
        echo "epoch $1"
        shift
        for node; do
            number=${node%-}
            addr=$(sed -n 's/^listening on tcp:\/\///p' "$dir/node$number")
            echo "n$number@$addr$([ "$node" = "$number" ] || echo ' draining')"
        done
    } >"$dir/nodes"
}

# hangup WANT [N]: sends SIGHUP to the run and waits until it has said WANT about it, for the N-th time.
hangup() {
    kill -HUP "$run" || fail "the run ended before it was told of other nodes"
    for _ in $(seq 300); do
        [ "$(grep -c -- "$1" "$dir/err")" -ge "${2:-1}" ] && return
        sleep 0.1
    done
    fail "SIGHUP was not answered by '$1'"
}

# count NODE NAME: a counter of a node
count() {
    "$scoutkv" stats --nodes "@$dir/nodes" --json | sed -n "/\"$1\": {/,/}/p" | sed -n "s/^ *\"$2\": \([0-9]*\).*/\1/p"
}

# more_than NODE NAME N: waits until that counter is above N.
more_than() {
    for _ in $(seq 300); do
        [ "$(count "$1" "$2")" -gt "$3" ] && return
        kill -0 "$run" || fail "the run ended early"
        sleep 0.1
    done
    fail "$2 of $1 stayed at $(count "$1" "$2")"
}

start_nodes 3
ends 0 make-model random -o "$dir/random.gguf" --layers 2 --dim 64 --heads 4 --kv-heads 2 --ff 64
seq 1 500 | tr '\n' ' ' >"$dir/prompt"
set -- run -m "$dir/random.gguf" -f "$dir/prompt" --ignore-eos --window 64 --budget 64 --cache 64KiB --temp 0 -c 1000000

# A run that goes on while n3 joins and n1 drains, until Ctrl-C.
view 1 1 2
: >"$dir/err"
: >"$dir/text"
"$scoutkv" "$@" --nodes "@$dir/nodes" >"$dir/text" 2>"$dir/err" </dev/null &
run=$!
pids="$pids $run"
for _ in $(seq 300); do
    [ -s "$dir/text" ] && break
    sleep 0.1
done
view 2 1 2 3
hangup 'read again: 3 nodes'
echo 'epoch 3' >"$dir/nodes"
hangup 'as they were: .*nodes: the cluster view names no memory node'
view 1 1 2
hangup 'epoch 1, and epoch 2 is in use'
more_than n3 blocks 0 # those that are sealed from now on are n3's too
view 3 1- 2 3
hangup 'read again: 3 nodes' 2
more_than n1 view_epoch 2 # it takes no block by an older view any more
before=$(count n1 blocks)
more_than n3 blocks $(($(count n3 blocks) + 5))
[ "$(count n1 blocks)" -eq "$before" ] || fail "n1 drains and was given blocks"
kill -INT "$run"
wait "$run"
status=$?
[ $status -eq 130 ] || fail "Ctrl-C ended it with status $status"

# The same tokens as without nodes; and a run that finds n2 only goes by what n2 knows.
tokens=$(sed -n 's/^generated *\([0-9]*\) tokens.*/\1/p' "$dir/err")
ends 0 "$@" -n "$tokens"
same "$dir/out" "$dir/text" "nodes that came and went gave other text than the embedded one"
ends 0 "$@" -n 100 --nodes "$(sed -n 's/^n2@//p' "$dir/nodes")" --replicas 2
[ "$(count n1 blocks)" -eq "$before" ] || fail "n1 drains and was given blocks by a run that knew n2 only"
cmp -s -n "$(wc -c <"$dir/out")" "$dir/out" "$dir/text" || fail "a run that knew n2 only gave other text"

# Without @FILE there is nothing to read again; a file that is none is a mistake at the start.
echo 'n1@nowhere' >"$dir/nodes"
ends 1 "$@" -n 1 --nodes "@$dir/nodes"
says 'line 1'
says 'no host:port'
ends 1 "$@" -n 1 --nodes "@$dir/absent"
says 'absent'
