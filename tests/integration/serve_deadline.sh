#!/bin/sh
# scoutkv serve --step-deadline, with a node that is frozen in the middle of a stream: degrade goes on and says what was
# missed, fail says who is late; when the node answers again, so does everything.
. "$(dirname "$0")/serve_common"

ends 0 make-model random -o "$dir/random.gguf" --layers 2 --dim 64 --heads 4 --kv-heads 2 --ff 64
seq 1 700 | tr '\n' ' ' >"$dir/prompt"
start_nodes 3
frozen=$(echo "$pids" | awk '{ print $2 }')
kv="-c 20000 --window 64 --budget 64 --cache 64KiB --chunk 256 --nodes $nodes --timeout-ms 600000 --step-deadline 2000"
ask="{\"prompt\": \"$(cat "$dir/prompt")\", \"temperature\": 0, \"ignore_eos\": true"

# streams_frozen N: a stream of N tokens, under which a node is frozen as soon as it speaks; it is in $dir/out.
streams_frozen() {
    : >"$dir/out"
    curl -sS -N --max-time 200 -D "$dir/head" -o "$dir/out" "$URL/v1/completions" -d "$ask, \"max_tokens\": $1, \"stream\": true}" &
    stream=$!
    for _ in $(seq 1000); do
        [ -s "$dir/out" ] && break
        sleep 0.01
    done
    kill -STOP "$frozen"
    wait $stream || fail "the stream ended with status $? (28: it waited for the node)"
}

# shellcheck disable=SC2086 # a list of words
serves -m "$dir/random.gguf" $kv --on-loss degrade
post /v1/completions "$ask, \"max_tokens\": 60}"
answers 200 '"scoutkv":{"degraded_steps":0,"estimated_missed_mass":0.0}'
text >"$dir/want"
streams_frozen 1500
kill -CONT "$frozen"
answers 200 '"finish_reason":"length".*"scoutkv":{"degraded_steps":[1-9][0-9]*,"estimated_missed_mass":0\.[0-9]*[1-9]'
prints '^data: \[DONE\]$'
grep -q 'steps went on without pages' "$dir/log" || fail "the operator was not told: $(cat "$dir/log")"
for _ in $(seq 100); do # what the node was asked meanwhile comes first
    post /v1/completions "$ask, \"max_tokens\": 60}"
    grep -q '"degraded_steps":0' "$dir/out" && break
    sleep 0.1
done
answers 200 '"scoutkv":{"degraded_steps":0'
text >"$dir/got"
same "$dir/want" "$dir/got" "after the node came back the tokens are others"
stops 0

# shellcheck disable=SC2086
serves -m "$dir/random.gguf" $kv --on-loss fail
streams_frozen 1500
kill -CONT "$frozen"
prints '"error":{"message":".*memory node .* has not answered in the time that a step has.*"code":"memory_node_unreachable"'
! grep -q '"scoutkv"' "$dir/out" || fail "it failed and spoke of what it missed: $(tail -n 3 "$dir/out")"
post /v1/completions "$ask, \"max_tokens\": 60}"
answers 200 '"finish_reason":"length"'
text >"$dir/got"
same "$dir/want" "$dir/got" "after a failure the tokens are others"
stops 0
