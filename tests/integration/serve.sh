#!/bin/sh
# scoutkv serve: what clients of OpenAI's API get, streamed and not; the tokens of `scoutkv run`; prompts that begin alike;
# errors, limits, clients and nodes that go away; the README's snippets.
. "$(dirname "$0")/serve_common"

ends 2 serve
says 'missing -m'
ends 2 serve -m x --chat-template alpaca
says 'chatml'
ends 2 serve -m x --time-limit soon
ends 2 serve -m x --window 512 --seal-lag 100
ends 0 make-model random -o "$dir/random.gguf" --layers 2 --dim 64 --heads 4 --kv-heads 2 --ff 64
ends 0 make-model recall -o "$dir/recall.gguf"
ends 1 serve -m "$dir/random.gguf" --host 0.0.0.0 --port 0
says 'not loopback'
ends 1 serve -m "$dir/random.gguf" --port 0 --api-keys "$dir/absent"
says 'absent'

# ---- the tokens of `scoutkv run`, streamed or not, alone or not; beginnings that are there already ----

seq 1 700 | tr '\n' ' ' >"$dir/prompt"
kv="-c 20000 --window 64 --budget 64 --cache 64KiB --chunk 256"
asks="\"max_tokens\": 24, \"ignore_eos\": true"
printf '{"prompt": "%s", "temperature": 0, %s}' "$(cat "$dir/prompt")" "$asks" >"$dir/greedy"
printf '{"prompt": "%s", "temperature": 0, %s, "stream": true}' "$(cat "$dir/prompt")" "$asks" >"$dir/stream"
printf '{"prompt": "%s", "temperature": 0.8, "seed": 7, %s}' "$(head -c 1500 "$dir/prompt")" "$asks" >"$dir/drawn"
# shellcheck disable=SC2086 # lists of words
ends 0 run -m "$dir/random.gguf" -f "$dir/prompt" $kv -n 24 --ignore-eos --temp 0 --json
text >"$dir/want-greedy"
[ -s "$dir/want-greedy" ] || fail "run said nothing"
# shellcheck disable=SC2086
ends 0 run -m "$dir/random.gguf" -p "$(head -c 1500 "$dir/prompt")" $kv -n 24 --ignore-eos --temp 0.8 --top-k 0 --top-p 1 --min-p 0 --seed 7 --json
text >"$dir/want-drawn"

start_nodes 3
# shellcheck disable=SC2086
serves -m "$dir/random.gguf" $kv --nodes "$nodes"
post /v1/completions "@$dir/greedy"
answers 200 '"cached_tokens":0'
text >"$dir/got"
same "$dir/want-greedy" "$dir/got" "the server gave other tokens than run: $(cat "$dir/got")"
post /v1/completions "@$dir/stream"
answers 200 '^data: \[DONE\]$'
grep -qi '^content-type: text/event-stream' "$dir/head" || fail "a stream has another type"
text >"$dir/got"
same "$dir/want-greedy" "$dir/got" "a stream gave other tokens: $(cat "$dir/got")"
post /v1/completions "@$dir/greedy"
answers 200 '"cached_tokens":[1-9]'
text >"$dir/got"
same "$dir/want-greedy" "$dir/got" "a prompt that was found gave other tokens"

many=
for i in 1 2 3; do
    for what in greedy drawn; do
        curl -sS "$URL/v1/completions" -d "@$dir/$what" >"$dir/$what.$i" &
        many="$many $!"
    done
done
for pid in $many; do
    wait "$pid" || fail "one of several requests at once failed"
done
for i in 1 2 3; do
    for what in greedy drawn; do
        cp "$dir/$what.$i" "$dir/out"
        text >"$dir/got"
        same "$dir/want-$what" "$dir/got" "at once with others, $what $i gave other tokens: $(cat "$dir/out")"
    done
done

# A document that nobody has asked before, from several at once: it is prefilled once.
printf '{"prompt": "New: %s", "temperature": 0, %s}' "$(cat "$dir/prompt")" "$asks" >"$dir/new"
many=
for i in 1 2 3 4; do
    curl -sS "$URL/v1/completions" -d "@$dir/new" >"$dir/new.$i" &
    many="$many $!"
done
for pid in $many; do
    wait "$pid" || fail "one of several requests at once failed"
done
cat "$dir"/new.[1-4] | sed 's/}{"id/}\n{"id/g' >"$dir/out"
[ "$(grep -o '"cached_tokens":0' "$dir/out" | wc -l)" -eq 1 ] || fail "a document was prefilled several times at once: $(cat "$dir/out")"
[ "$(sed 's/.*"text":"\(.*\)","logprobs".*/\1/' "$dir/out" | sort -u | wc -l)" -eq 1 ] || fail "it was answered in several ways: $(cat "$dir/out")"

# Clients that go: a stream, and one that waits for a whole answer.
long='{"prompt": "x", "max_tokens": 19000, "temperature": 0, "ignore_eos": true'
curl -sS -N --max-time 0.4 "$URL/v1/completions" -d "$long, \"stream\": true}" >"$dir/out" 2>/dev/null
prints '^data: '
curl -sS --max-time 0.4 "$URL/v1/completions" -d "$long}" >"$dir/out" 2>/dev/null
idle
[ "$(grep -c 'the client went' "$dir/log")" -eq 2 ] || fail "clients went unnoticed: $(cat "$dir/log")"
stops 0

# Another server of the same nodes begins where the first one ended. Without nodes: 503, and soon.
# shellcheck disable=SC2086
serves -m "$dir/random.gguf" $kv --nodes "$nodes" --alias other --timeout-ms 400
post /v1/completions "@$dir/greedy"
answers 200 '"cached_tokens":[1-9]'
text >"$dir/got"
same "$dir/want-greedy" "$dir/got" "another server gave other tokens"
prints '"model":"other"'
for pid in $pids; do
    [ "$pid" = $server ] || kill "$pid" 2>/dev/null
done
post /v1/completions "@$dir/greedy"
answers 503 '"type":"server_error","param":null,"code":"memory_node_unreachable"'
stops 0

# ---- limits ----

serves -m "$dir/random.gguf" -c 100000 --memory 4MiB --cache 64KiB
post /v1/completions '{"prompt": "x", "max_tokens": 99000}'
answers 400 'a context of 990[0-9]* tokens needs [0-9.]* MiB of memory, and this server has 4.0 MiB for all requests (--memory)'
post /v1/completions '{"prompt": "x", "max_tokens": 200, "temperature": 0, "ignore_eos": true}'
answers 200 '"completion_tokens":200'
curl -sS "$URL/health" >"$dir/out"
prints '"memory":4194304,"memory_taken":0'
stops 0

serves -m "$dir/random.gguf" -c 4000 --parallel 1 --queue 1 --time-limit 1.2s --max-body 64KiB --max-tokens 3900
post /v1/completions '{"prompt": "x", "max_tokens": 3950}'
answers 400 "'max_tokens' is 3950; at most 3900"
post /v1/completions "{\"prompt\": \"$(head -c 3000 "$dir/prompt")\", \"max_tokens\": 3900}"
answers 400 '"context_length_exceeded"'
post /v1/completions "{\"prompt\": \"$(cat "$dir/prompt" "$dir/prompt")\"}"
answers 400 'a context holds 4000'
head -c 70000 /dev/zero | tr '\0' x >"$dir/large"
post /v1/completions "@$dir/large"
answers 413 '"request_too_large"'
long='{"prompt": "x", "max_tokens": 3800, "temperature": 0, "ignore_eos": true, "stream": true}'
for i in 1 2; do # the first is worked on, the second waits
    curl -sS -N --max-time 60 "$URL/v1/completions" -d "$long" >"$dir/long$i" &
    eval "long$i=$!"
    for _ in $(seq 100); do
        curl -sS "$URL/health" | grep -q "\"active\":1,\"waiting\":$((i - 1))" && break
        grep -q DONE "$dir/long1" && break
        sleep 0.02
    done
done
post /v1/completions '{"prompt": "x"}'
if ! grep -q DONE "$dir/long1"; then # a fast machine may be through
    answers 429 '"rate_limit_error"'
    grep -qi '^retry-after: [1-9]' "$dir/head" || fail "a full queue did not say when to try again"
fi
# shellcheck disable=SC2154 # set by eval
wait "$long1"
# shellcheck disable=SC2154
wait "$long2"
grep -q '"finish_reason":"length"' "$dir/long1" || fail "a stream that was cut by length or time ended otherwise"
idle
stops 0

# What waits gets comments; what is worked on when the server stops is told so.
serves -m "$dir/random.gguf" -c 1000000 --parallel 1 --ping 0.2s --drain 0.2s
long='{"prompt": "x", "max_tokens": 900000, "temperature": 0, "ignore_eos": true, "stream": true}'
for i in 1 2; do
    curl -sS -N --max-time 60 "$URL/v1/completions" -d "$long" >"$dir/long$i" &
    eval "long$i=$!"
done
for _ in $(seq 100); do
    grep -q '^: ' "$dir/long1" "$dir/long2" && break
    sleep 0.1
done
grep -q '^: 0 of [1-9][0-9]* tokens' "$dir/long1" "$dir/long2" || fail "a stream that waits got no comment"
stops 0
wait "$long1"
wait "$long2"
for i in 1 2; do
    grep -q '"code":"shutting_down"' "$dir/long$i" || fail "a stream ended without a word when the server stopped: $(tail -n 3 "$dir/long$i")"
done

# ---- who may ask, and for what; conversations; the README ----

printf '# keys\nsk-one\nsk-two\nsk-a1 alpha\nsk-a2 alpha\nsk-b beta 0123456789abcdef\nsk-all -\n' >"$dir/keys"
nodes=
start_nodes 2
serves -m "$dir/recall.gguf" --api-keys "$dir/keys" --chat-template chatml --nodes "$nodes"
post /v1/completions '{"prompt": "x"}'
answers 401 '"invalid_api_key"'
KEY=sk-three
post /v1/completions '{"prompt": "x"}'
answers 401 '"invalid_api_key"'
KEY=sk-two
fact='The key of Levet is 503118. The key of Levet is'
post /v1/completions "{\"prompt\": \"$fact\", \"temperature\": 0}"
answers 200 '"text":" 503118.","logprobs":null,"finish_reason":"stop"'
post /v1/completions "{\"prompt\": \"$fact\", \"temperature\": 0, \"max_tokens\": 1, \"logprobs\": 1}"
answers 200 '"logprobs":{"tokens":\[" 503"\].*"finish_reason":"length"'
post /v1/completions "{\"prompt\": \"$fact\", \"temperature\": 0, \"stop\": [\"xyz\", \"118\"]}"
answers 200 '"text":" 503","logprobs":null,"finish_reason":"stop"'
post /v1/completions "{\"prompt\": \"$fact\", \"temperature\": 0, \"stop\": \"118\", \"stream\": true, \"stream_options\": {\"include_usage\": true}}"
answers 200 '"choices":\[\],"usage":{"prompt_tokens":[1-9]'
! grep -q '118"' "$dir/out" || fail "a stop string was streamed: $(cat "$dir/out")"
post /v1/completions "{\"prompt\": \"$fact\", \"max_tokens\": 0}"
answers 200 '"completion_tokens":0'
post /v1/chat/completions '{"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4, "temperature": 0}'
answers 200 '"message":{"role":"assistant","content":"'
post /v1/chat/completions '{"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4, "stream": true}'
answers 200 '"delta":{"role":"assistant","content":""}'
prints '"delta":{},"logprobs":null,"finish_reason":"'
post /v1/completions '{"prompt": "x"'
answers 400 'no JSON'
post /v1/completions '{"prompt": "x", "temperature": 9}'
answers 400 '"type":"invalid_request_error","param":"temperature"'
post /v1/completions '{"prompt": "x", "model": "gpt-4"}'
answers 404 '"code":"model_not_found"'
post /v1/nothing '{}'
answers 404 '"code":"unknown_path"'
post /v1/models '{}'
answers 405 'takes GET'
grep -qi '^allow: GET' "$dir/head" || fail "a wrong method was not told the right one"
curl -sS -D "$dir/head" -o "$dir/out" -H "Authorization: Bearer $KEY" "$URL/v1/models/recall"
answers 200 '"id":"recall"'
curl -sS -D "$dir/head" -o "$dir/out" "$URL/health"
answers 200 '"status":"ok"'
printf '%s' "$fact" | "$scoutkv" tokenize -m "$dir/recall.gguf" --no-bos | tr ' ' ',' >"$dir/ids"
post /tokenize "{\"content\": \"$fact\"}"
answers 200 "{\"tokens\":\[$(cat "$dir/ids")\]}"
post /detokenize "$(cat "$dir/out")"
answers 200 "{\"content\":\" $fact\"}"

# Tenants: a document is found again by whoever shares the salt of who asked it first, here or at another server.
document=$(seq 1 700 | tr '\n' ' ')
asked() { # KEY CACHED: asks the document with that key
    KEY=$1
    post /v1/completions "{\"prompt\": \"$document\", \"max_tokens\": 1}"
    answers 200 "\"cached_tokens\":$2"
}
asked sk-a1 0
asked sk-a2 '[1-9]'
asked sk-b 0
asked sk-one 0
asked sk-all 0
asked sk-b '[1-9]'
KEY=sk-two

awk '/^```sh$/ { on = 1; next } /^```$/ { on = 0 } on' decoder/serve/README.md >"$dir/snippets"
export URL KEY
sh -eu "$dir/snippets" >"$dir/out" 2>"$dir/err" || fail "the README's snippets ended with status $?: $(cat "$dir/out")"
! grep -q '"error"' "$dir/out" || fail "a snippet of the README gave an error: $(cat "$dir/out")"
[ "$(grep -c '"text":" 503118\.".*"cached_tokens":[1-9]' "$dir/out")" -eq 1 ] || fail "the README's second question began anew: $(cat "$dir/out")"
ends 0 context list --nodes "$nodes"
prints '^serve/alpha/[0-9a-f]* '
prints '^serve/key-[0-9a-f]*/[0-9a-f]* '
prints '^serve/[0-9a-f]* '
printf 'sk-b2 beta 0123456789abcdef\nsk-c alpha\n' >"$dir/keys2"
first=$server
serves -m "$dir/recall.gguf" --api-keys "$dir/keys2" --nodes "$nodes"
asked sk-b2 '[1-9]'
asked sk-c 0
stops 0
server=$first
KEY=
stops 0

# A trained model, if there is one.
if [ -n "${SCOUTKV_TEST_DATA-}" ]; then
    stories=$SCOUTKV_TEST_DATA/stories260K.gguf
    ends 0 run -m "$stories" -p 'Once upon a time' -n 40 --temp 0 --json
    text >"$dir/want"
    serves -m "$stories"
    post /v1/completions '{"prompt": "Once upon a time", "max_tokens": 40, "temperature": 0}'
    text >"$dir/got"
    same "$dir/want" "$dir/got" "stories260K went on otherwise than in run: $(cat "$dir/got")"
    post /v1/chat/completions '{"messages": [{"role": "user", "content": "Hello"}]}'
    answers 400 'no chat template: start the server with --chat-template chatml|llama2'
    stops 0
fi
