#!/bin/sh
# scoutkv run: right answers, the same ones on any nodes, stop strings, snapshots, Ctrl-C.
. "$(dirname "$0")/cli_common"

# ids: those of the last --json run
ids() {
    sed 's/.*"ids":\[\([^]]*\)\].*/\1/' "$dir/out"
}

ends 0 make-model recall -o "$dir/recall.gguf"
ends 0 run -m "$dir/recall.gguf" --temp 0 -p 'The key of Levet is 503118. The key of Levet is'
[ "$(cat "$dir/out")" = ' 503118.' ] || fail "the recall model said '$(cat "$dir/out")'"
says 'ended by: end'
says 'ms per step'
says 'longest step'
says 'missed mass'
ends 0 run -m "$dir/recall.gguf" --temp 0 -p 'The key of Levet is 503118. The key of Levet is' --stop 118
[ "$(cat "$dir/out")" = ' 503' ] || fail "a stop string left '$(cat "$dir/out")'"
says 'ended by: stop'

# A long prompt of a random model: window 64, so that most of it is far.
ends 0 make-model random -o "$dir/random.gguf" --layers 2 --dim 64 --heads 4 --kv-heads 2 --ff 64
seq 1 700 | tr '\n' ' ' >"$dir/prompt"
set -- run -m "$dir/random.gguf" -f "$dir/prompt" -c 20000 -n 24 --ignore-eos --window 64 --budget 64 --cache 64KiB --json
ends 0 "$@"
prints '"step":{[^}]*"max":[0-9]'
ids >"$dir/embedded"
[ "$(tr ',' '\n' <"$dir/embedded" | wc -l)" -eq 24 ] || fail "asked for 24 tokens, got $(cat "$dir/embedded")"
ends 0 "$@"
ids >"$dir/again"
same "$dir/embedded" "$dir/again" "two runs with one seed drew other tokens"
ends 0 "$@" --seed 2
ids >"$dir/other"
cmp -s "$dir/embedded" "$dir/other" && fail "another seed drew the same tokens"
start_nodes 3
ends 0 "$@" --nodes "$nodes"
ids >"$dir/three"
same "$dir/embedded" "$dir/three" "three nodes gave other tokens than the embedded one"
ends 0 "$@" --nodes "$nodes"
ids >"$dir/filled"
same "$dir/embedded" "$dir/filled" "filled nodes gave other tokens"

# Half of it, saved, the other half in another process, which goes on with its sampler too.
set -- run -m "$dir/random.gguf" -c 20000 --ignore-eos --window 64 --budget 64 --cache 64KiB --nodes "$nodes"
ends 0 "$@" -f "$dir/prompt" -n 24
cp "$dir/out" "$dir/straight"
ends 0 "$@" -f "$dir/prompt" -n 12 --save half
cp "$dir/out" "$dir/halves"
says '--resume half'
ends 0 "$@" --resume half -n 12
cat "$dir/out" >>"$dir/halves"
same "$dir/straight" "$dir/halves" "save and resume gave other text than a straight run"
ends 1 "$@" --resume absent -n 1
says 'absent'
set -- run -m "$dir/random.gguf" -c 20000 --ignore-eos --nodes "$nodes" --resume half
ends 1 "$@" -n 1 --window 128
says 'saved with --window 64, not 128'
ends 2 "$@" -n 1 --system 'Be brief.'
ends 0 "$@" -n 12 --window 64
tail -c "$(wc -c <"$dir/out")" "$dir/straight" | cmp -s - "$dir/out" || fail "no options repeated, and other text"

# What streams is valid UTF-8, whatever bytes a random model says.
ends 0 run -m "$dir/random.gguf" -p 'é' -n 400 --ignore-eos --temp 5 --top-k 0 --top-p 1 --min-p 0
iconv -f UTF-8 -t UTF-8 "$dir/out" >/dev/null 2>&1 || fail "the text is not valid UTF-8"

# Ctrl-C: what there is stays, the summary comes, nothing hangs.
: >"$dir/out" # or what the last run left would be taken for its first token
"$scoutkv" run -m "$dir/random.gguf" -p x -c 10000000 --ignore-eos >"$dir/out" 2>"$dir/err" </dev/null &
pid=$!
pids="$pids $pid"
for _ in $(seq 100); do
    [ -s "$dir/out" ] && break
    sleep 0.1
done
kill -INT $pid
wait $pid
status=$?
[ $status -eq 130 ] || fail "Ctrl-C ended it with status $status"
says 'ended by: interrupted'
