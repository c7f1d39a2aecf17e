#!/bin/sh
# scoutkv context: saved contexts by name and by tokens, on real nodes, from several processes.
. "$(dirname "$0")/cli_common"

ends 0 make-model random -o "$dir/random.gguf" --layers 2 --dim 64 --heads 4 --kv-heads 2 --ff 64
seq 1 1400 | tr '\n' ' ' >"$dir/prompt"
(
    head -c 4000 "$dir/prompt"
    echo 'and then another end'
) >"$dir/parts"
start_nodes 3
common="-m $dir/random.gguf -c 40000 --ignore-eos --window 64 --budget 64 --seed 5 --nodes $nodes"

ends 2 context list
says 'missing --nodes'
ends 2 context nonsense
ends 2 context fork only-one --nodes "$nodes"
says 'expected 2 arguments'
ends 2 context save
ends 0 context save --help
ends 0 context list --nodes "$nodes"
[ "$(wc -l <"$dir/out")" -eq 1 ] || fail "something is saved on new nodes"
ends 1 context show absent --nodes "$nodes"
says 'no context "absent"'

# What a run from 0 says, on nodes of its own.
# shellcheck disable=SC2086 # a list of words
set -- $common
ends 0 run -m "$dir/random.gguf" -c 40000 --ignore-eos --window 64 --budget 64 --seed 5 -f "$dir/prompt" -n 24
cp "$dir/out" "$dir/want"
ends 0 run -m "$dir/random.gguf" -c 40000 --ignore-eos --window 64 --budget 64 --seed 5 -f "$dir/parts" -n 24
cp "$dir/out" "$dir/want-parts"

# Saved without a generated token, resumed with none of the options.
ends 0 context save book "$@" -f "$dir/prompt" --ttl 12h
ends 0 context list --nodes "$nodes"
prints '^book .* random .* yes$'
ends 0 context list --nodes "$nodes" --json
prints '"ttl_ms": 43200000'
ends 0 context show book --nodes "$nodes"
prints '^window  *64 tokens'
tokens=$(sed -n 's/^tokens  *\([0-9,]*\),.*/\1/p' "$dir/out" | tr -d ,)
[ "$tokens" -gt 5000 ] || fail "the saved prompt has '$tokens' tokens"
ends 0 context resume book -m "$dir/random.gguf" -c 40000 --ignore-eos --nodes "$nodes" -n 24
same "$dir/want" "$dir/out" "resuming a saved prompt gave other text than a run from 0"
says "^resumed  *book, $tokens tokens"

# The same tokens, and tokens that begin alike: found without a name.
ends 0 run "$@" -f "$dir/prompt" -n 24
same "$dir/want" "$dir/out" "a prompt that was found on the tier gave other text"
says "of $tokens tokens found on the tier"
ends 0 run "$@" -f "$dir/parts" -n 24
same "$dir/want-parts" "$dir/out" "a prompt whose beginning was found gave other text"
says '^prefix  *[1-9][0-9]* of [0-9]* tokens found on the tier'
ends 0 run "$@" -f "$dir/prompt" -n 24 --fresh
same "$dir/want" "$dir/out" "--fresh gave other text"
! grep -q '^prefix' "$dir/err" || fail "--fresh took what was stored"

# Kept in few bits: as if it had not stopped, found by those who keep them so only.
ends 0 run "$@" -f "$dir/prompt" -n 24 --kv-type q4 --fresh
cp "$dir/out" "$dir/want-q4"
ends 0 run "$@" -f "$dir/prompt" -n 11 --kv-type q4 --save few
says '^saved  *few, '
ends 0 context show few --nodes "$nodes"
prints 'of keys and values as q4$'
ends 0 run "$@" -f "$dir/prompt" -n 24 --kv-type q4
says '^prefix  *[1-9][0-9]* of [0-9]* tokens found on the tier'
same "$dir/want-q4" "$dir/out" "a prompt in few bits that was found gave other text"
ends 0 run "$@" -f "$dir/prompt" -n 24 --kv-type q8_0
! grep -q '^prefix' "$dir/err" || fail "q8_0 found what was stored as q4"
ends 0 run --resume few -m "$dir/random.gguf" -c 40000 --ignore-eos --nodes "$nodes" -n 13
tail -c "$(wc -c <"$dir/out")" "$dir/want-q4" >"$dir/rest"
same "$dir/rest" "$dir/out" "a context in few bits went on otherwise"
ends 1 run --resume few -m "$dir/random.gguf" -c 40000 --ignore-eos --nodes "$nodes" --kv-type f16
says 'was saved with --kv-type q4, not f16'
ends 0 context rm few --nodes "$nodes"

# So are rounded activations: they are part of what a context is, and say so.
ends 0 make-model random -o "$dir/q.gguf" --type Q8_0
set -- -m "$dir/q.gguf" -c 40000 --ignore-eos --nodes "$nodes" --temp 0
ends 0 run "$@" -f "$dir/prompt" -n 24 --activations int8 --fresh
cp "$dir/out" "$dir/want-int8"
ends 0 run "$@" -f "$dir/prompt" -n 11 --activations int8 --save rounded
ends 1 run --resume rounded "$@" --activations exact
says 'was saved with --activations int8, not exact'
ends 0 run --resume rounded "$@" -n 13
tail -c "$(wc -c <"$dir/out")" "$dir/want-int8" >"$dir/rest"
same "$dir/rest" "$dir/out" "a context with rounded activations went on otherwise"
ends 0 context rm rounded --nodes "$nodes"
set -- $common

# A fork goes its own way, and stays when the first is removed.
ends 0 context fork book tale --nodes "$nodes" --ttl 2d
ends 1 context fork book tale --nodes "$nodes"
says 'saved already'
ends 0 run -m "$dir/random.gguf" -c 40000 --ignore-eos --nodes "$nodes" --resume tale -p ' and so on' -n 8 --save tale
ends 0 context rm book --nodes "$nodes"
ends 1 context resume book -m "$dir/random.gguf" --nodes "$nodes" -n 1
ends 1 context rm book --nodes "$nodes"
ends 0 context show tale --nodes "$nodes"
ends 0 context unpin tale --nodes "$nodes"
ends 0 context list --nodes "$nodes"
prints '^tale .* no$'
ends 0 context pin tale --nodes "$nodes" --ttl 30d
ends 0 context list --nodes "$nodes"
prints '^tale .* 29d 23h *yes$'
ends 2 context pin tale --nodes "$nodes" --ttl soon
ends 0 make-model random -o "$dir/other.gguf" --layers 2 --dim 64 --heads 4 --kv-heads 2 --ff 64 --seed 2
ends 1 context resume tale -m "$dir/other.gguf" --nodes "$nodes" -n 1
says 'another model'

# Two processes save texts with one beginning at the same time, and a third goes on with a common one.
"$scoutkv" context save left "$@" -f "$dir/prompt" >/dev/null 2>"$dir/left" &
left=$!
"$scoutkv" context save right "$@" -f "$dir/parts" >/dev/null 2>"$dir/right" &
right=$!
pids="$pids $left $right"
ends 0 run -m "$dir/random.gguf" -c 40000 --ignore-eos --nodes "$nodes" --resume tale -n 8
wait $left || fail "saving at once with others failed: $(cat "$dir/left")"
wait $right || fail "saving at once with others failed: $(cat "$dir/right")"
ends 0 context resume left -m "$dir/random.gguf" -c 40000 --ignore-eos --nodes "$nodes" -n 24
same "$dir/want" "$dir/out" "of two contexts saved at once, the first gave other text"
ends 0 context resume right -m "$dir/random.gguf" -c 40000 --ignore-eos --nodes "$nodes" -n 24
same "$dir/want-parts" "$dir/out" "of two contexts saved at once, the second gave other text"
for name in left right tale; do
    ends 0 context rm "$name" --nodes "$nodes"
done
ends 0 stats --nodes "$nodes" --json
! grep -q '"leases": [1-9]' "$dir/out" || fail "leases are left when nothing is saved"
