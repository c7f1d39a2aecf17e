#!/bin/sh
# scoutkv calibrate: a file that run and eval take, and another model refuses; a schedule that holds more of all
# layers' far mass with as many tokens.
. "$(dirname "$0")/cli_common"

ends 0 make-model random -o "$dir/a.gguf" --layers 3 --dim 64 --heads 4 --kv-heads 2 --ff 64
ends 0 make-model random -o "$dir/b.gguf" --layers 3 --dim 64 --heads 4 --kv-heads 2 --ff 64 --seed 2
head -c 20000 "$0" >"$dir/text"
while [ "$(wc -c <"$dir/text")" -lt 20000 ]; do cat "$0" >>"$dir/text"; done
printf '%s\n' '{"prompt": "'"$(tr -c 'a-z0-9 ' ' ' <"$dir/text" | head -c 3000)"' The number is:", "answer": "4711"}' \
    >"$dir/prompts"

ends 2 calibrate -m "$dir/a.gguf"
says 'give a text (--file)'
ends 1 calibrate -m "$dir/a.gguf" -f "$dir/text" -n 100000 -o "$dir/never"
[ ! -e "$dir/never" ] || fail "a calibration of nothing"
ends 0 calibrate -m "$dir/a.gguf" -f "$dir/text" --prompts "$dir/prompts" --texts 2 -n 1024 --queries 16 --window 64 \
    -o "$dir/a.calib"
prints '2 texts, 1 prompts; 4 queries that copy an answer and 48 others'
[ -z "$(find "$dir" -name 'a.calib.*')" ] || fail "something stays beside the calibration"

ends 2 run -m "$dir/a.gguf" -p x -n 1 --schedule calibrated
says 'needs --calib FILE'
ends 1 run -m "$dir/b.gguf" -p x -n 1 --calib "$dir/a.calib"
says 'made for another model'
ends 1 run -m "$dir/a.gguf" -p x -n 1 --calib "$dir/a.gguf"
says 'is no calibration'
ends 0 run -m "$dir/a.gguf" -f "$dir/text" -n 8 --temp 0 --window 128 --budget 64 --calib "$dir/a.calib"

ends 0 trace -m "$dir/a.gguf" -f "$dir/text" --skip 5000 -n 1500 -o "$dir/t.kvt"
# shellcheck disable=SC2086
for how in "--schedule uniform" "--schedule narrow-low" "--calib $dir/a.calib"; do
    ends 0 eval mass --trace "$dir/t.kvt" --policies cascade,dense --budgets 64 --window 64 $how --json "$dir/j"
    awk '/"share_of_all_layers"/ { gsub(/[^0-9.]/, ""); print } /"tokens_selected"/ { gsub(/[^0-9.]/, ""); print }' \
        "$dir/j" | head -2 | tr '\n' ' ' >>"$dir/figures"
done
awk '{ exit !($2 == $4 && $2 == $6 && $5 > $1 - 0.005) }' "$dir/figures" || fail "figures $(cat "$dir/figures")"
ends 1 eval mass --trace "$dir/t.kvt" --calib "$dir/text"
ends 0 trace -m "$dir/b.gguf" -f "$dir/text" -n 700 -o "$dir/b.kvt"
ends 1 eval mass --trace "$dir/b.kvt" --calib "$dir/a.calib"
says 'another model than that of'
ends 0 eval text -m "$dir/a.gguf" -f "$dir/text" --tokens 1024 --score 32 --texts 1 --window 128 --policies cascade \
    --budgets 64 --calib "$dir/a.calib" --schedule narrow-low

# Salience: learned with a calibration, by the mean query without, which is said once.
ends 0 eval mass --trace "$dir/t.kvt" --policies salience,cascade:beta=0.5:alpha=1 --budgets 64 --window 64
says 'salience is not learned.*--calib'
[ "$(grep -c 'not learned' "$dir/err")" -eq 1 ] || fail "it says more than once that salience is not learned"
ends 0 eval mass --trace "$dir/t.kvt" --policies salience,cascade:beta=0.5:alpha=1 --budgets 64 --window 64 --calib "$dir/a.calib"
[ ! -s "$dir/err" ] || fail "with a calibration, something is said"

# A saved context has its calibration with it; without options it goes on as if it had never stopped.
start_nodes 1
run="run -m $dir/a.gguf --temp 0 --ignore-eos --window 128 --budget 64 --nodes $nodes"
# shellcheck disable=SC2086
ends 0 $run -f "$dir/text" -c 40000 -n 24 --calib "$dir/a.calib" --fresh
cp "$dir/out" "$dir/straight"
# shellcheck disable=SC2086
ends 0 $run -f "$dir/text" -c 40000 -n 0 --calib "$dir/a.calib" --save kept
ends 0 context show kept --nodes "$nodes"
prints '^schedule  *calibrated, with its calibration'
ends 0 run -m "$dir/a.gguf" --temp 0 --ignore-eos -c 40000 --nodes "$nodes" --resume kept -n 24
same "$dir/out" "$dir/straight" "resumed with its calibration, the text is another"
for how in "--policy salience" "--beta 0.5 --alpha 0.5"; do
    # shellcheck disable=SC2086
    ends 0 $run -f "$dir/text" -c 40000 -n 24 --calib "$dir/a.calib" $how --fresh
    cp "$dir/out" "$dir/straight"
    # shellcheck disable=SC2086
    ends 0 $run -f "$dir/text" -c 40000 -n 0 --calib "$dir/a.calib" $how --save kept --fresh
    ends 0 run -m "$dir/a.gguf" --temp 0 --ignore-eos -c 40000 --nodes "$nodes" --resume kept -n 24
    same "$dir/out" "$dir/straight" "resumed with $how, the text is another"
done
