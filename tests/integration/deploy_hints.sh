#!/bin/sh
# deploy/hints, small, on a random model: a row for each workload with hints and without, the same output, and clear
# mistakes.
. "$(dirname "$0")/cli_common"

# hints STATUS ARGUMENT…
hints() {
    want=$1
    shift
    SCOUTKV_TEST_DATA='' timeout 200 deploy/hints --build "$BUILD" --out "$dir/results" "$@" >"$dir/out" 2>"$dir/err" </dev/null
    status=$?
    [ $status -eq "$want" ] || fail "'deploy/hints $*' ended with status $status, wanted $want"
}

ends 0 make-model random -o "$dir/random.gguf" --layers 2 --dim 64 --heads 4 --kv-heads 2 --ff 64 --context 2048
cat README.md decoder/README.md decoder/*/README.md >"$dir/text"

hints 0 --small -m "$dir/random.gguf" -f "$dir/text" --seed 3
for row in 'lockstep  off' 'lockstep  on' 'recall    off' 'recall    on'; do
    prints "^$row  *[0-9.]* %  *[0-9]*  *[0-9.]* %  *[0-9.]* %\$"
done
prints '^scoutkv bench hints -m .* --turn 1 --seed 3 '
grep -q '^told  *0 blocks in 0 hints' "$dir/results/lockstep-off.txt" || fail "hints that are off were told"
grep -q '^told  *[1-9][0-9]* blocks in [1-9][0-9]* hints' "$dir/results/recall-on.txt" || fail "no hints were told"
[ ! -e "$dir/results/nodes" ] || fail "the nodes' folder is still there"

hints 2 -m "$dir/random.gguf"
says '-m and -f go together'
hints 2 --seed x
says 'not a number'
hints 2 --fast
says 'no such option'

ends 2 bench hints -m "$dir/random.gguf" -f "$dir/text"
says 'give memory nodes with disks'
ends 2 bench hints -m "$dir/random.gguf" -f "$dir/text" --nodes 127.0.0.1:1 --tokens 1024 --decode 2000
says 'leave none to store'
ends 2 bench hints -m "$dir/random.gguf" --nodes 127.0.0.1:1 --hints maybe
says 'on or off\|on|off\|hints'
