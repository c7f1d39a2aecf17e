#!/bin/sh
# scoutkv trace and eval mass: from a model's text to figures of policies; what must hold whatever the model: the
# oracle holds most, everything holds all, nothing holds nothing, and damaged traces are refused.
. "$(dirname "$0")/cli_common"

# figures FILE: a line "kind budget policy share error kept" for each measurement in eval mass's JSON.
figures() {
    awk '
        { key = $0; gsub(/[",{}:]/, "", key); split(key, word, " ") }
        /^  "(copy|ordinary)": \{$/ { kind = word[1] }
        /^    "[0-9]+": \{$/ { budget = word[1] }
        /^      "[^"]+": \{$/ { line = $0; sub(/^ *"/, "", line); sub(/".*/, "", line); policy = line }
        /^        "share":/ { share = word[2] }
        /^        "error":/ { error = word[2] }
        /^        "bytes_kept_per_token":/ { print kind, budget, policy, share, error, word[2] }' "$1"
}

# holds FILE: what must hold of every measurement; more than the whole trace at budget 100000.
holds() {
    figures "$1" >"$dir/figures"
    [ -s "$dir/figures" ] || fail "no figures in $1"
    awk '
        { at = $1 " " $2; seen[at]++; share[at, $3] = $4; name[at, seen[at]] = $3 }
        function wrong(what) { print what ": " $0; bad = 1 }
        $4 < -1e-9 || $4 > 1 + 1e-9 { wrong("no share") }
        $3 == "dense" && ($4 < 1 - 1e-9 || $5 > 1e-9) { wrong("dense misses something") }
        $3 == "window" && $4 != 0 { wrong("window selects something") }
        $3 != "window" && $2 == 100000 && ($4 < 1 - 1e-9 || $5 > 1e-9) { wrong("all pages are not everything") }
        END {
            for (at in seen)
                for (i = 1; i <= seen[at]; i++)
                    if (name[at, i] != "dense" && share[at, name[at, i]] > share[at, "oracle"] + 1e-6) {
                        print at ": " name[at, i] " holds more than the oracle"
                        bad = 1
                    }
            exit bad
        }' "$dir/figures" >&2 || fail "figures of $1 can't be"
}

ends 0 make-model random -o "$dir/random.gguf" --layers 2 --dim 64 --heads 4 --kv-heads 2 --ff 64
seq 1 300 >"$dir/text"
trace() {
    ends 0 trace -m "$dir/random.gguf" "$@"
}
trace -f "$dir/text" -n 700 -o "$dir/a.kvt"
prints '700 tokens, 2 layers.*0 queries that copy.*48 others'
trace -f "$dir/text" -n 700 --skip 90 --queries 20 -o "$dir/b.kvt"
prints '20 others'
trace -f "$dir/text" -n 700 -t 1 -o "$dir/c.kvt"
same "$dir/a.kvt" "$dir/c.kvt" "a trace depends on the number of threads"

for select in 16 64; do
    ends 0 eval mass --trace "$dir/a.kvt" "$dir/b.kvt" --window 64 --sinks 16 --budgets 64,100000 --select $select \
        --json "$dir/json" --layers --calibration
    prints 'ordinary queries: 68 in 2 traces'
    prints 'estimated missed share of the attention, cascade at 64 tokens: correlation'
    prints 'least of the three, which 0 of '
    holds "$dir/json"
    # every policy at both budgets
    [ "$(wc -l <"$dir/figures")" -eq $((2 * $(grep -c ' 64 ' "$dir/figures"))) ] || fail "a budget lacks policies"
    grep -q '^ordinary 64 quest ' "$dir/figures" || fail "quest is missing"
done
ends 0 eval mass --trace "$dir/a.kvt" --window 64 --policies random,random:seed=2,heavy-hitter --budgets 32 --json - -t 1
cp "$dir/out" "$dir/one"
[ "$(head -c 1 "$dir/one")" = '{' ] || fail "--json - prints something besides JSON"
[ "$(figures "$dir/one" | wc -l)" -eq 3 ] || fail "not three figures of three policies"
[ "$(figures "$dir/one" | awk '{ print $4 }' | sort -u | wc -l)" -eq 3 ] || fail "other lots give the same figures"
ends 0 eval mass --trace "$dir/a.kvt" --window 64 --policies random,random:seed=2,heavy-hitter --budgets 32 --json - -t 2
grep -v '"seconds"' "$dir/one" >"$dir/one_thread"
grep -v '"seconds"' "$dir/out" >"$dir/two_threads"
same "$dir/one_thread" "$dir/two_threads" "figures depend on the number of threads"

# prompts with answers
{
    printf '{"prompt": "%s. The number is:", "answer": "4711"}\n\n' "$(seq -s ' ' 1 130)"
    printf '{"prompt": "%s. The number is:", "answer": "no digits"}\n' "$(seq -s ' ' 1 130)"
    echo '{"prompt": 1, "answer": "2"}'
} >"$dir/prompts"
trace --prompts "$dir/prompts" -o "$dir/p.kvt"
prints '[1-9] queries that copy an answer and 48 others'
ends 0 eval mass --trace "$dir/p.kvt" --window 32 --sinks 0 --budgets 16,100000 --json "$dir/json"
prints '16 tokens selected; queries that copy an answer'
holds "$dir/json"
ends 1 trace -m "$dir/random.gguf" --prompts "$dir/prompts" --prompt 1 -o "$dir/q.kvt"
says 'the answer of prompt 1 has no digits'
ends 1 trace -m "$dir/random.gguf" --prompts "$dir/prompts" --prompt 2 -o "$dir/q.kvt"
says 'prompt 2 must be an object'
ends 1 trace -m "$dir/random.gguf" --prompts "$dir/prompts" --prompt 3 -o "$dir/q.kvt"
says 'has no prompt 3'
ends 1 trace -m "$dir/random.gguf" -f "$dir/text" --skip 1000000 -o "$dir/q.kvt"
says 'no text behind its first'
ends 1 trace -m "$dir/random.gguf" -f "$dir/text" -o "$dir/absent/q.kvt"
says 'absent/q.kvt'
[ ! -e "$dir/q.kvt" ] || fail "a trace that failed left a file"
ends 2 trace -m "$dir/random.gguf" -o "$dir/q.kvt"
ends 2 trace -m "$dir/random.gguf" -f "$dir/text" --prompts "$dir/prompts" -o "$dir/q.kvt"

# what is refused
ends 2 eval mass
ends 2 eval mass --trace "$dir/a.kvt" --policies cascade,clairvoyant
says 'clairvoyant'
ends 2 eval mass --trace "$dir/a.kvt" --policies quest,quest
ends 2 eval mass --trace "$dir/a.kvt" --budgets 64,
ends 2 eval mass --trace "$dir/a.kvt" --budgets 32 --select 64
ends 2 eval mass --trace "$dir/a.kvt" --select 48
ends 1 eval mass --trace "$dir/a.kvt" --window 100000
says 'smaller --window'
ends 1 eval mass --trace "$dir/text"
says 'is no trace'
head -c 5000 "$dir/a.kvt" >"$dir/cut"
ends 3 eval mass --trace "$dir/cut"
says 'truncated'
{
    head -c 5000 "$dir/a.kvt"
    printf 'X'
    tail -c +5002 "$dir/a.kvt"
} >"$dir/flipped"
ends 3 eval mass --trace "$dir/flipped"
says 'checksum'
ends 0 make-model random -o "$dir/other.gguf" --layers 2 --dim 64 --heads 4 --kv-heads 2 --ff 64 --seed 9
ends 0 trace -m "$dir/other.gguf" -f "$dir/text" -n 300 -o "$dir/o.kvt"
ends 1 eval mass --trace "$dir/a.kvt" "$dir/o.kvt"
says 'of another model'

if [ -z "${SCOUTKV_TEST_DATA:-}" ]; then
    echo "trained models skipped: SCOUTKV_TEST_DATA is not set"
    exit 0
fi
ends 0 trace -m "$SCOUTKV_TEST_DATA/recall3m-f16.gguf" --prompts "$SCOUTKV_TEST_DATA/recall-4k.jsonl" -o "$dir/r.kvt"
prints '4000 tokens, 4 layers.*7 queries that copy an answer and 48 others'
ends 0 eval mass --trace "$dir/r.kvt" --budgets 64 --policies window,random,norm-only,cascade,oracle --json "$dir/json"
holds "$dir/json"
# Copied digits lie in a page or two: the scout finds them, chance doesn't.
awk '$1 == "copy" { share[$3] = $4 }
    END { exit !(share["cascade"] > 0.5 * share["oracle"] && share["random"] < 0.2 * share["oracle"]) }' "$dir/figures" ||
    fail "of a trained model's copying, the scout holds less than half of what the oracle does: $(cat "$dir/figures")"
