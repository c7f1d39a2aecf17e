#!/bin/sh
# scoutkv serve, killed in the middle of streams and started again: contexts come back from the nodes, and tokens are as
# if it had never stopped, there and at another server; a node that is killed under a stream, with a second copy.
. "$(dirname "$0")/serve_common"

ends 0 make-model random -o "$dir/random.gguf" --layers 2 --dim 64 --heads 4 --kv-heads 2 --ff 64
seq 1 700 | tr '\n' ' ' >"$dir/prompt"
start_nodes 3
first_node=${pids# }
first_node=${first_node%% *}
kv="-c 20000 --window 64 --budget 64 --cache 64KiB --chunk 256 --nodes $nodes --replicas 2"
n=600
ask="{\"prompt\": \"$(cat "$dir/prompt")\", \"max_tokens\": $n, \"ignore_eos\": true"
greedy="$ask, \"temperature\": 0"
drawn="$ask, \"temperature\": 0.8, \"seed\": 7"

# streams: both requests as streams, into $dir/greedy and $dir/drawn; returns when both speak.
streams() {
    asking=
    for what in greedy drawn; do
        rm -f "$dir/$what"
        eval "body=\$$what"
        # shellcheck disable=SC2154 # set by eval
        curl -sS -N --max-time 200 -o "$dir/$what" "$URL/v1/completions" -d "$body, \"stream\": true}" 2>/dev/null &
        asking="$asking $!"
    done
    for _ in $(seq 1000); do
        [ -s "$dir/greedy" ] && [ -s "$dir/drawn" ] && return 0
        sleep 0.01
    done
    fail "no stream spoke: $(cat "$dir/log")"
}
# said WHAT: the text of a stream
said() {
    cp "$dir/$1" "$dir/out"
    text
}
# whole WHAT: the request's answer, whose prompt was found
whole() {
    eval "body=\$$1"
    post /v1/completions "$body}"
    answers 200 '"cached_tokens":[1-9]'
    text >"$dir/got"
    same "$dir/want-$1" "$dir/got" "$2: $1 gave other tokens"
}

# Undisturbed.
# shellcheck disable=SC2086 # a list of words
serves -m "$dir/random.gguf" $kv
streams
for pid in $asking; do
    wait "$pid" || fail "a stream ended with status $?"
done
said greedy >"$dir/want-greedy"
said drawn >"$dir/want-drawn"

# Killed: what was said was right as far as it went.
streams
kill -KILL $server
wait $server 2>/dev/null
for pid in $asking; do
    wait "$pid" && fail "a stream ended well though its server was killed"
done
for what in greedy drawn; do
    said $what >"$dir/part"
    size=$(wc -c <"$dir/part")
    [ "$size" -lt "$(wc -c <"$dir/want-$what")" ] || fail "the server was killed when it had said everything: this shows nothing"
    # The last event may have come in part: what it holds is not read.
    cmp -s -n "$size" "$dir/part" "$dir/want-$what" || fail "before it was killed the server said otherwise: $what"
done

# Started again, and a second one beside it.
# shellcheck disable=SC2086
serves -m "$dir/random.gguf" $kv
whole greedy "after a restart"
whole drawn "after a restart"
restarted=$server restarted_url=$URL
# shellcheck disable=SC2086
serves -m "$dir/random.gguf" $kv
whole greedy "at a second server"
stops 0
server=$restarted URL=$restarted_url

# A node is killed under streams: the second copies serve.
streams
kill -KILL "$first_node"
for pid in $asking; do
    wait "$pid" || fail "a stream ended with status $? when a node was killed"
done
for what in greedy drawn; do
    said $what >"$dir/got"
    same "$dir/want-$what" "$dir/got" "with a node killed, $what gave other tokens: $(tail -n 2 "$dir/$what")"
done
curl -sS "$URL/health" >"$dir/out"
prints '"nodes":3,"nodes_up":2'
stops 0
