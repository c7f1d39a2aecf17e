#!/bin/sh
# scoutkv eval text on a random model: what must be exact is exact, and bad input is told.
. "$(dirname "$0")/cli_common"

# number KEY [POLICY BUDGET [TYPE]]: a number of the JSON file, of that row if given (one key a line, "policy",
# "budget" and "kv_type" first in each row).
number() {
    awk -v key="\"$1\":" -v policy="${2:+\"$2\",}" -v budget="${3:+$3,}" -v type="\"${4:-f16}\"," '
        $1 == "\"rows\":" { rows = 1 }
        rows && $1 == "\"policy\":" { row = $2 }
        rows && $1 == "\"budget\":" { of = $2 }
        rows && $1 == "\"kv_type\":" { kept = $2 }
        $1 == key && (policy == "" ? !rows : row == policy && of == budget && kept == type) { sub(/,$/, "", $2); print $2; exit }' "$dir/json"
}
# holds WHAT EXPRESSION: of numbers, by awk
holds() {
    awk "BEGIN { exit !($2) }" || fail "$1: $2"
}

ends 0 make-model random -o "$dir/random.gguf" --layers 2 --dim 64 --heads 4 --kv-heads 2 --ff 64 --context 600 --seed 5
cat README.md decoder/README.md decoder/*/README.md >"$dir/text"

# 384 tokens lie before the scored ones: a budget of as many is everything, 32 is not.
sizes="--tokens 448 --score 64 --window 64 --texts 3"
text="eval text -m $dir/random.gguf $sizes"
start_nodes 2
# shellcheck disable=SC2086 # words
ends 0 $text -f "$dir/text" --seed 3 --budgets 32,100% --policies cascade,norm-only --json "$dir/json" --svg "$dir/svg" --nodes "$nodes"
for key in seed tokens score texts text_tokens window sinks select context_kv_bytes seconds from_percent; do
    [ -n "$(number $key)" ] || fail "the JSON has no $key"
done
for row in 'dense null' 'window null' 'sinks 32' 'sinks 448' 'cascade 32' 'cascade 448' 'norm-only 32' 'norm-only 448'; do
    for key in cache_bytes perplexity ratio ratio_min ratio_max nats nats_se kl kl_se kl_p99 argmax_agreement \
        representative_bytes_per_token steps bytes_per_step scout_bytes_per_step held_share missed_mass; do
        # shellcheck disable=SC2086
        [ -n "$(number $key $row)" ] || fail "row $row has no $key"
    done
    # shellcheck disable=SC2086
    holds "$row: every step" "$(number steps $row) == 3 * 64"
done
[ "$(grep -c '"policy":' "$dir/json")" -eq 9 ] || fail "there are not 8 rows and the policy of losses"
holds "dense is like dense" "$(number kl dense null) == 0 && $(number ratio dense null) == 1 && $(number argmax_agreement dense null) == 1"
holds "a random model knows nothing" "$(number perplexity dense null) > 100"
for row in 'cascade 448' 'norm-only 448' 'sinks 448'; do # all read everything, in page order
    # shellcheck disable=SC2086
    holds "$row is dense" "$(number kl $row) == 0 && $(number kl_p99 $row) == 0 && $(number nats $row) == 0 && $(number nats_se $row) == 0"
    # shellcheck disable=SC2086
    holds "$row is dense" "$(number ratio $row) == 1 && $(number argmax_agreement $row) == 1 && $(number perplexity $row) == $(number perplexity dense null)"
done
for row in 'cascade 32' 'norm-only 32' 'sinks 32' 'window null'; do
    # shellcheck disable=SC2086
    holds "$row leaves out something" "$(number kl $row) > 0 && $(number kl_p99 $row) >= $(number kl $row)"
done
# Blocks are here until they are acknowledged, which takes as long as the machine is busy.
holds "dense reads no more than there is" "$(number bytes_per_step dense null) <= $(number context_kv_bytes)"
holds "32 tokens are few" "$(number bytes_per_step cascade 32) > 0 && $(number bytes_per_step cascade 32) < 0.1 * $(number context_kv_bytes)"
holds "the newest are found without looking" "$(number scout_bytes_per_step cascade 32) > 0 && $(number scout_bytes_per_step sinks 32) == 0 && $(number scout_bytes_per_step window null) == 0 && $(number scout_bytes_per_step dense null) == 0"
prints '^cascade  *448 .* 1\.0000 '
prints 'cannot tell policies apart'
grep -q '^<svg ' "$dir/svg" || fail "no plot"
[ "$(tail -n 1 "$dir/svg")" = "</svg>" ] || fail "the plot has no end"
grep -q '>norm-only<' "$dir/svg" || fail "the plot lacks a policy"

# The same seed gives the same figures, on a node inside too; another one takes other pieces.
first=$(number perplexity cascade 32)
# shellcheck disable=SC2086
ends 0 $text -f "$dir/text" --seed 3 --budgets 32 --policies cascade --json "$dir/json"
[ "$(number perplexity cascade 32)" = "$first" ] || fail "seed 3 gave $first on two nodes, and $(number perplexity cascade 32) inside"
# shellcheck disable=SC2086
ends 0 $text -f "$dir/text" --seed 4 --budgets 32 --policies cascade --json "$dir/json"
[ "$(number perplexity cascade 32)" != "$first" ] || fail "seeds 3 and 4 gave the same"
# shellcheck disable=SC2086
ends 0 $text -f "$dir/text" --texts 1 --budgets 32 --policies cascade --from 95 --json "$dir/json"
[ "$(number nats_se cascade 32)" = null ] || fail "one piece has no spread"
holds "the last part is short" "$(number text_tokens) < $(wc -c <"$dir/text") / 20 + 1"

# Keys and values in fewer bits: near dense in the first type, the fewer the further; everything is dense there too.
# shellcheck disable=SC2086
ends 0 $text -f "$dir/text" --seed 3 --budgets 32,100% --policies cascade --kv-types f16,q8_0,q4 --json "$dir/json" --nodes "$nodes"
prints '^dense q8_0  *- '
prints 'f16, 256 bytes a token; q8_0, 144 bytes a token; q4, 96 bytes a token$'
[ "$(number perplexity cascade 32)" = "$first" ] || fail "the first type is another beside others"
holds "q8_0 is nearer than q4" "0 < $(number kl dense null q8_0) && $(number kl dense null q8_0) < $(number kl dense null q4) && $(number kl dense null q4) < 0.1"
for type in q8_0 q4; do
    holds "$type reads everything" "$(number kl cascade 448 $type) == $(number kl dense null $type)"
done
holds "fewer bytes are fetched" "$(number bytes_per_step cascade 32 q4) < 0.03 * $(number context_kv_bytes)" # f16: 0.05

# Every policy, with options too, gives dense's bits when it may read everything.
# shellcheck disable=SC2086
ends 0 $text -f "$dir/text" --texts 1 --budgets 100% --policies all,cascade:beta=0.5 --json "$dir/json"
policies=$("$scoutkv" policies --json | sed -n 's/^    "name": "\(.*\)",$/\1/p')
[ "$(echo "$policies" | wc -l)" -ge 4 ] || fail "scoutkv policies lists '$policies'"
for policy in $policies cascade:beta=0.5; do
    case $policy in
    window) ;;
    dense) holds "dense" "$(number kl dense null) == 0" ;;
    *) holds "$policy reads everything" "$(number kl $policy 448) == 0 && $(number ratio $policy 448) == 1" ;;
    esac
done

# Input that cannot do.
head -c 1000 "$dir/text" >"$dir/short"
# shellcheck disable=SC2086
{
    ends 1 $text -f "$dir/short"
    says 'the text has [0-9]* tokens, and 3 pieces of 448 need'
    ends 1 $text -f "$dir/text" --from 99.9
    says 'there (--from)'
    : >"$dir/empty"
    ends 1 $text -f "$dir/empty"
    says 'the text has 0 tokens'
    ends 1 $text -f "$dir/no/such"
    says 'No such file'
    ends 1 $text -f "$dir/text" --texts 1 --json "$dir/no/such"
    says 'cannot write'
    ends 1 $text -f "$dir/text" --texts 1 --svg "$dir/no/such"
    says 'No such file'
    ends 2 $text -f "$dir/text" --score 300
    says 'nothing is far'
    ends 2 $text -f "$dir/text" --budgets 64,1e9
    says "'1e9' is neither"
    ends 2 $text -f "$dir/text" --budget 64
    says 'give --budgets 64'
    ends 2 $text -f "$dir/text" --kv-types f16,q5
    says "'q5' is none"
    ends 2 $text -f "$dir/text" --kv-types f16,q4 --kv-type q4
    says 'leave one of them out'
    ends 2 $text -f "$dir/text" --policies cascade,windw
    says 'windw'
}
head -c 30000 "$dir/random.gguf" >"$dir/cut.gguf"
ends 1 eval text -m "$dir/cut.gguf" -f "$dir/text"
# A weight that is no number is found at the first scored token, not averaged away.
size=$(wc -c <"$dir/random.gguf")
cp "$dir/random.gguf" "$dir/nan.gguf"
head -c 4096 /dev/zero | tr '\0' '\377' | dd of="$dir/nan.gguf" bs=1 seek=$((size - 8192)) conv=notrunc 2>/dev/null
# shellcheck disable=SC2086
ends 1 eval text -m "$dir/nan.gguf" $sizes -f "$dir/text" --budgets 32
says 'no numbers'
