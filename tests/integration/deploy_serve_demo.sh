#!/bin/sh
# deploy/serve-demo, with a short text: usage; all answers right; whoever comes later finds what the first one stored.
. "$(dirname "$0")/cli_common"
plain_only "serve tries the server in this one"
command -v curl >/dev/null || {
    echo "SKIPPED: curl is not installed"
    exit 77
}

deploy/serve-demo --tokens many >"$dir/out" 2>"$dir/err"
status=$?
[ $status -eq 2 ] || fail "a wrong number ended it with status $status"
deploy/serve-demo --tokens 65536 --build "$BUILD" --json "$dir/json" >"$dir/out" 2>"$dir/err" || fail "it failed: $(cat "$dir/out")"
prints '^65[0-9]* tokens, 3 nodes: 8 of 8 answers are right; the second user'
grep -q '"right": 8' "$dir/json" || fail "the JSON says otherwise: $(cat "$dir/json")"
[ "$(grep -c ' 0 tokens cached' "$dir/out")" -eq 1 ] || fail "the text was prefilled more than once: $(cat "$dir/out")"
! pgrep -f "$BUILD/scoutkv serve.*--ping 1d" >/dev/null || fail "it left a server running"
