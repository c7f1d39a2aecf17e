#!/bin/sh
# scoutkv serve with many streams at once: 64, each with the tokens of `scoutkv run` alone; memory that is taken; bench serve.
. "$(dirname "$0")/cli_common"
command -v curl >/dev/null || {
    echo "SKIPPED: curl is not installed"
    exit 77
}

# serves ARGS…: starts a server; sets server to its process and URL to where it listens.
serves() {
    : >"$dir/listens"
    "$scoutkv" serve --port 0 "$@" >"$dir/listens" 2>"$dir/log" </dev/null &
    server=$!
    pids="$pids $server"
    for _ in $(seq 300); do
        URL=$(sed -n 's/^listening on //p' "$dir/listens")
        [ -z "$URL" ] || return 0
        kill -0 $server 2>/dev/null || break
        sleep 0.1
    done
    fail "serve $* does not listen: $(cat "$dir/log")"
}

# text FILE: of an answer, or all of a stream's, as it stands in the JSON
text() {
    sed -n 's/.*"text":"\(.*\)","\(logprobs\|ended\)".*/\1/p' "$1" | tr -d '\n'
}

# ---- 64 streams: prompts of several lengths, some with far pages, greedy and drawn ----

ends 0 make-model random -o "$dir/random.gguf" --layers 2 --dim 64 --heads 4 --kv-heads 2 --ff 64
kv="-c 20000 --window 64 --budget 64 --cache 64KiB --chunk 256"
start_nodes 2
for i in 1 2 3 4 5 6 7 8; do
    seq "$i" $((i * i * 8)) | tr '\n' ' ' >"$dir/prompt$i"
    draw="--temp 0"
    json='"temperature": 0'
    if [ $((i % 2)) -eq 0 ]; then
        draw="--temp 0.8 --top-k 0 --top-p 1 --min-p 0 --seed $i"
        json="\"temperature\": 0.8, \"seed\": $i"
    fi
    # shellcheck disable=SC2086 # lists of words
    ends 0 run -m "$dir/random.gguf" -f "$dir/prompt$i" $kv -n 48 --ignore-eos $draw --json
    text "$dir/out" >"$dir/want$i"
    [ -s "$dir/want$i" ] || fail "run said nothing"
    printf '{"prompt": "%s", "max_tokens": 48, "ignore_eos": true, "stream": true, %s}' "$(cat "$dir/prompt$i")" "$json" >"$dir/ask$i"
done
# shellcheck disable=SC2086
serves -m "$dir/random.gguf" $kv --nodes "$nodes" --parallel 64
streams=
for round in 1 2 3 4 5 6 7 8; do
    for i in 1 2 3 4 5 6 7 8; do
        curl -sS -N --max-time 120 "$URL/v1/completions" -d "@$dir/ask$i" >"$dir/stream$round.$i" &
        streams="$streams $!"
    done
done
for pid in $streams; do
    wait "$pid" || fail "a stream of 64 failed"
done
for round in 1 2 3 4 5 6 7 8; do
    for i in 1 2 3 4 5 6 7 8; do
        text "$dir/stream$round.$i" >"$dir/got"
        same "$dir/want$i" "$dir/got" "among 64 streams, $round.$i has other tokens than run alone: $(tail -c 300 "$dir/stream$round.$i")"
    done
done
kill $server
wait $server || fail "serve ended with status $?"

# ---- memory: a request that takes most of it, and one that then has to wait and may not ----

serves -m "$dir/random.gguf" -c 1000000 --memory 12MiB --cache 64KiB --queue 0 --drain 0.2s
printf '{"prompt": "x", "max_tokens": 300000, "temperature": 0, "ignore_eos": true, "stream": true}' >"$dir/long"
curl -sS -N --max-time 60 "$URL/v1/completions" -d "@$dir/long" >"$dir/first" &
first=$!
for _ in $(seq 100); do
    grep -q '^data: ' "$dir/first" && break
    sleep 0.05
done
curl -sS "$URL/health" >"$dir/out"
prints '"active":1,.*"memory_taken":[1-9]'
curl -sS -D "$dir/head" --max-time 60 "$URL/v1/completions" -d "@$dir/long" >"$dir/out"
grep -q '^HTTP/1.1 429 ' "$dir/head" || fail "there was room for two: $(cat "$dir/head")"
prints '"rate_limit_error"'
grep -qi '^retry-after: [1-9]' "$dir/head" || fail "it did not say when to try again"
curl -sS --max-time 60 "$URL/v1/completions" -d '{"prompt": "x", "max_tokens": 4}' >"$dir/out"
prints '"completion_tokens":[1-4]'
kill $server
wait $server || fail "serve ended with status $?"
wait $first

# ---- the bench ----

ends 0 bench serve -m "$dir/random.gguf" --streams 3,8 --rounds 2 --prompt 8 --tokens 32
prints '^ *8 '
prints '^answers that differed from the same stream.s first one: 0 of 16$'
ends 0 bench serve -m "$dir/random.gguf" --streams 2 --rounds 1 --tokens 16 --nodes "$nodes" --json
prints '"answers_differed": 0'
prints '"gap_max_over_median": [1-9]'
ends 2 bench serve -m "$dir/random.gguf" --streams 0
says 'streams: expected'
