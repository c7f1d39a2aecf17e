#!/bin/sh
# scoutkv eval recall, small: the main job over three nodes.
. "$(dirname "$0")/cli_common"

# number KEY [OBJECT]: a number of the JSON file, in the object of that name if given (one key a line).
number() {
    awk -v key="\"$1\":" -v object="${2:+\"$2\": {}" '
        object == "" || index($0, object) { inside = 1 }
        inside && $1 == key { sub(/,$/, "", $2); print $2; exit }' "$dir/json"
}
# holds WHAT EXPRESSION: of numbers, by awk
holds() {
    awk "BEGIN { exit !($2) }" || fail "$1: $2"
}

ends 0 make-model recall -o "$dir/recall.gguf"
start_nodes 3
ends 0 eval recall -m "$dir/recall.gguf" --tokens 16384 --window 256 --chunk 128 --seed 7 --nodes "$nodes" --json "$dir/json" \
    --dense-seconds 2 --answers "$dir/answers" --node-pids "$(echo $pids | tr ' ' ',')"
prints '^cascade'
prints 'sum of peak RSS'
for key in seed tokens facts budget_tokens decoder_kv_bytes context_kv_bytes; do
    [ -n "$(number $key)" ] || fail "the JSON has no $key"
done
holds "tokens" "$(number tokens) == 16384 && $(number seed) == 7 && $(number facts) == 128"
holds "context" "$(number context_kv_bytes) == 16384 * 1024"
holds "a tenth of the pages" "$(number budget_tokens) * 10 <= $(number fact_pages) * 16 && $(number budget_tokens) > 0"
holds "memory of the decoder" "$(number decoder_kv_bytes) <= $(number context_kv_bytes) / 10"
holds "cascade is right" "$(number right cascade) == 64 && $(number asked cascade) == 64"
holds "dense is right" "$(number right dense) == $(number asked dense) && $(number asked dense) >= 1"
holds "window knows nothing" "$(number right window) <= 1 && $(number asked window) == 64"
holds "norms don't tell" "$(number right norm-only) <= 12"
holds "cascade fetches" "$(number bytes_per_step cascade) > 0 && $(number bytes_per_step cascade) < $(number dense_bytes_per_step cascade) / 20"
holds "dense fetches" "$(number bytes_per_step dense) > 0.8 * $(number dense_bytes_per_step dense)"
holds "every answer is told" "$(awk '$1 == "cascade" && $3 == $4 && $5 > 0' "$dir/answers" | wc -l) == 64"
holds "wrong ones too" "$(awk '$1 == "window" && $3 != $4' "$dir/answers" | wc -l) >= 63"
ends 1 eval recall -m "$dir/recall.gguf" --answers "$dir/no/such" --tokens 16384
says 'No such file'

# A limit that cannot be kept is a failure, and says so.
ends 1 eval recall -m "$dir/recall.gguf" --tokens 8192 --questions 4 --policies window --limit 1
says 'more than 1 %'
