#!/bin/sh
# deploy/demo on a small text: table, JSON, and nothing left running, also when it is interrupted.
set -u
# shellcheck source=tests/integration/builds
. "$(dirname "$0")/builds"
plain_only "the commands that it runs have tests of their own, which a sanitizer sees"
dir=$(mktemp -d)
finish() {
    [ -z "${demo-}" ] || kill -TERM "-$demo" 2>/dev/null
    rm -rf "$dir"
}
trap finish EXIT
trap 'exit 1' INT TERM
fail() {
    echo "deploy_demo: $*" >&2
    tail -n 40 "$dir"/*.txt >&2
    exit 1
}
# Our nodes are those that were started by this test: they have inherited a variable of its own.
left() {
    for pid in $(ls /proc | grep '^[0-9]*$'); do
        tr '\0' '\n' <"/proc/$pid/environ" 2>/dev/null | grep -qx "SKV_DEMO_TEST=$1" && echo "$pid"
    done
}
value() { sed -n "s/.*\"$1\": \([0-9.]*\).*/\1/p" "$dir/out.json" | head -n 1; }

SKV_DEMO_TEST=$dir/a deploy/demo --build "$BUILD" --tokens 16384 --nodes 3 --seed 5 --json "$dir/out.json" \
    >"$dir/demo.txt" 2>&1 || fail "it failed with status $?"
[ -z "$(left "$dir/a")" ] || fail "processes were left: $(left "$dir/a")"
[ "$(value seed)" = 5 ] || fail "the JSON has seed '$(value seed)'"
[ "$(value facts)" = 128 ] || fail "128 facts are due, not '$(value facts)'"
for key in tokens budget_tokens decoder_kv_bytes context_kv_bytes asked right bytes_per_step dense_bytes_per_step \
    ms_per_step; do
    [ -n "$(value $key)" ] || fail "the JSON has no $key"
done
for row in cascade window norm-only dense; do
    grep -q "\"$row\": {" "$dir/out.json" || fail "the JSON has no row $row"
    grep -q "^$row " "$dir/demo.txt" || fail "the table has no row $row"
done
[ $((10 * $(value decoder_kv_bytes))) -le "$(value context_kv_bytes)" ] || fail "the decoder holds more than a tenth"
asked=$(sed -n '/"cascade": {/,/}/s/.*"asked": \([0-9]*\).*/\1/p' "$dir/out.json")
right=$(sed -n '/"cascade": {/,/}/s/.*"right": \([0-9]*\).*/\1/p' "$dir/out.json")
[ "$asked" -ge 64 ] && [ "$right" -eq "$asked" ] || fail "cascade answered $right of $asked"
[ "$(grep -c 'memory node, pid' "$dir/demo.txt")" -eq 3 ] || fail "not three nodes in the table of memory"

# A node is killed while it asks.
SKV_DEMO_TEST=$dir/k deploy/demo --kill --build "$BUILD" --tokens 16384 --seed 5 --json "$dir/out.json" >"$dir/kill.txt" 2>&1 ||
    fail "--kill failed with status $?"
[ -z "$(left "$dir/k")" ] || fail "processes were left: $(left "$dir/k")"
grep -q 'kill -KILL [0-9]*: memory node n2 is dead, with [1-9]' "$dir/kill.txt" || fail "no node was killed"
grep -q ' 128 of 128 answers are right, .* 0 differ' "$dir/kill.txt" || fail "it does not say that all answers are right"
[ "$(value nodes_lost)" = 1 ] || fail "the decoder lost '$(value nodes_lost)' nodes"
deploy/demo --kill --nodes 1 >"$dir/usage.txt" 2>&1
[ $? -eq 2 ] || fail "killing the only node does not end with 2"

# Ctrl-C in the middle: the signal goes to the whole process group.
export SKV_DEMO_TEST="$dir/b"
env --default-signal=INT setsid deploy/demo --build "$BUILD" --tokens 400000 >"$dir/interrupted.txt" 2>&1 &
demo=$!
unset SKV_DEMO_TEST
for _ in $(seq 600); do # a busy machine and a sanitizer take their time to write the model
    grep -q 'tokens on' "$dir/interrupted.txt" && [ "$(left "$dir/b" | wc -l)" -ge 5 ] && break
    kill -0 $demo 2>/dev/null || break
    sleep 0.1
done
[ "$(left "$dir/b" | wc -l)" -ge 5 ] || fail "it should be busy with three nodes and a decoder"
kill -INT "-$demo"
wait $demo
status=$?
demo=
[ $status -eq 130 ] || fail "an interrupt ended it with status $status"
[ -z "$(left "$dir/b")" ] || fail "processes were left after an interrupt: $(left "$dir/b")"

deploy/demo --tokens many >"$dir/usage.txt" 2>&1
[ $? -eq 2 ] || fail "a mistake does not end with 2"
