#!/bin/sh
# scoutkv bench step: small runs over own nodes and given ones; its figures fit together; mistakes; nothing stays.
. "$(dirname "$0")/cli_common"

quick="--shape qwen2.5-7b --budget 128 --window 256 --rounds 2 --steps 2"

holds() {
    awk "BEGIN { exit !($1) }" || fail "$2: $1: $(cat "$dir/out")"
}
field() {
    sed -n "s/^ *\"$1\": \([-0-9.e]*\),*\$/\1/p" "$dir/out" | head -n 1
}

# Own nodes. A step of 8 pages and the protected one in each of 4 KV heads: bytes follow from what was held.
ends 0 bench step $quick --context 8K,16K --hits 0,75 --json
for ratio in dense_over_step scout_of_reads without_scout_long_over_short long_over_short in_series_over_default \
    no_cache_over_default one_stage_over_default fetch_p99_over_p50; do
    holds "$(field $ratio) > 0" "$ratio"
done
[ "$(field nodes)" = 3 ] || fail "not three nodes"
[ "$(grep -c '"way"' "$dir/out")" -eq 6 ] || fail "not six ways: $(cat "$dir/out")"
awk '
    { gsub(/[",]/, "") }
    $1 == "held_share:" { held = $2 }
    $1 == "fetched_bytes:" { want = (1 - held) * 9 * 4 * 8192; n++
        if ($2 - want > 1 || want - $2 > 1) { print "fetched " $2 ", held " held; bad = 1 } }
    $1 == "error:" && $2 != "null" { errors++; if (!($2 > 0 && $2 < 0.2)) { print "error " $2; bad = 1 } }
    END { exit bad || n != 6 || errors != 2 }' "$dir/out" >&2 || fail "the figures do not fit together"
[ ! -s "$dir/err" ] || fail "it said something"

# A trace, and given nodes, which get as many blocks as a layer has: the table.
"$scoutkv" make-model random -o "$dir/model.gguf" --layers 2 --dim 64 --heads 4 --kv-heads 2 --ff 64 >/dev/null ||
    fail "no model"
seq 2000 >"$dir/text"
"$scoutkv" trace -m "$dir/model.gguf" -f "$dir/text" -n 1024 -o "$dir/trace.kvt" >/dev/null || fail "no trace"
start_nodes 2
ends 0 bench step $quick --context 8K --hits 0 --layers 2 --nodes "$nodes" --trace "$dir/trace.kvt" --trace-budget 32
prints 'over 2 nodes'
prints '^trace: [0-9.]* % of the pages'
prints '^default .* trace '
prints '^no cache '
prints '^dense from memory / step '

# Mistakes, told before anything starts.
for bad in "--shape gpt-2" "--context 1000" "--context 16K,8K" "--context 3K" "--context ," "--hits 100" "--hits 5," "--hits x" \
    "--budget 100" "--window 4096" "--rounds 0" "--nodes 127.0.0.1:1 --start 2" "-m x"; do
    # shellcheck disable=SC2086 # a list of words
    ends 2 bench step --budget 128 --window 256 --context 8K $bad
    says 'scoutkv bench step'
done
ends 1 bench step $quick --context 8K --trace "$dir/absent"
says absent
ends 1 bench step $quick --context 8K --trace "$dir/trace.kvt" --trace-budget 512
says 'half of them must be twice'
