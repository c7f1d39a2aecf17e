#!/bin/sh
# deploy/eval, small, on a random model: tables, JSON and plots of everything it measures, and clear mistakes.
. "$(dirname "$0")/cli_common"
plain_only "the commands that it runs have tests of their own, which a sanitizer sees"

# evals STATUS ARGUMENT…
evals() {
    want=$1
    shift
    SCOUTKV_TEST_DATA='' timeout 200 deploy/eval --build "$BUILD" "$@" >"$dir/out" 2>"$dir/err" </dev/null
    status=$?
    [ $status -eq "$want" ] || fail "'deploy/eval $*' ended with status $status, wanted $want"
}

ends 0 make-model random -o "$dir/random.gguf" --layers 2 --dim 64 --heads 4 --kv-heads 2 --ff 64 --context 2048
for _ in 1 2 3 4; do
    cat README.md decoder/README.md decoder/*/README.md
done >"$dir/text"

evals 0 --small -m "$dir/random.gguf" -f "$dir/text" --out "$dir/results" --seed 3 --policies cascade
for result in text recall tasks words; do
    grep -q '^cascade ' "$dir/results/$result.txt" || fail "$result has no row"
    grep -q '"seed": 3' "$dir/results/$result.json" || fail "$result has another seed"
done
for result in text recall tasks; do
    prints "^scoutkv eval $result -m .* --seed 3 --policies cascade"
done
prints '^cascade  *64 '
prints '^cascade  *16/16 '
prints '^variable-tracking: '
prints '^cascade  *4/4  *100.0 '
prints '^common-words: '
prints '^cascade  *1/1  *100.0 '
grep -q '^</svg>' "$dir/results/text.svg" || fail "no plot"

evals 0 --small --out "$dir/results" --policies window
prints '^text  *left out: give -m and -f, or SCOUTKV_TEST_DATA'

evals 2 --small -m "$dir/random.gguf"
says '-m and -f go together'
evals 2 -m "$dir/no" -f "$dir/text"
says "cannot read $dir/no"
evals 2 --seed x
says 'not a number'
evals 2 --fast
says 'no such option'
: >"$dir/empty"
evals 1 --small -m "$dir/random.gguf" -f "$dir/empty" --out "$dir/results"
says 'the text has 0 tokens'
