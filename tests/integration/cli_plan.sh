#!/bin/sh
# scoutkv plan, with built-in constants and with those of a bench step; scoutkv bench compare and its script.
. "$(dirname "$0")/cli_common"

number() {
    sed -n "s/^ *\"$1\": \([-0-9.e+]*\),*\$/\1/p" "$dir/out" | head -n 1
}
holds() {
    awk "BEGIN { exit !($1) }" || fail "$2: $1: $(cat "$dir/out")"
}

ends 0 plan --model llama-3-70b --context 16M --nodes 64 --link 100 --ram 128GiB
prints '^step  *[0-9.]* ms = 80 layers of'
prints '<- most'
prints '^  of one node  *80.0 GiB$'
prints '^twice the decoders '
ends 0 plan --context 1M --nodes 4 --json
[ "$(number dense_bytes)" = 137438953472 ] || fail "dense bytes: $(cat "$dir/out")"
[ "$(number node_bytes)" = 34359738368 ] || fail "a node's bytes: $(cat "$dir/out")"
holds "$(number step_ms) / $(number layer_ms) > 31.9 && $(number step_ms) / $(number layer_ms) < 32.1" layers
ends 0 plan --nodes 1 --ram 1GiB
prints 'MORE THAN ITS RAM'

# Constants from a measurement: they are its own, and a slower link costs more.
ends 0 bench step --shape qwen2.5-7b --budget 128 --window 256 --rounds 1 --steps 2 --context 4K,8K,16K --hits 0 --json
cp "$dir/out" "$dir/step.json"
page_ns=$(number page_ns)
grep -q '"predicted_ms": [0-9]' "$dir/out" || fail "bench step predicts nothing"
ends 0 plan --model qwen2.5-7b --constants "$dir/step.json" --link 0 --json
[ "$(number page_ns)" ] && holds "$(number page_ns) / $page_ns > 0.9999 && $(number page_ns) / $page_ns < 1.0001" page_ns
step=$(number step_ms)
ends 0 plan --model qwen2.5-7b --constants "$dir/step.json" --link 0.001 --json
holds "$(number step_ms) > 2 * $step" "a slow link"
printf '{"constants": {"g": 4}}' >"$dir/bad.json"
ends 1 plan --constants "$dir/bad.json"
says '"d" must be a positive number'
ends 1 plan --constants "$dir/absent"
ends 2 plan --decoders 3
says 'shared evenly'
ends 2 plan --model gpt-2

# What changed: ratios beyond their spreads; with --all, other figures too.
cat >"$dir/a.json" <<END
{"step": {"rows": [{"way": "default", "tokens": 65536, "dense_over_step": 20, "dense_over_step_spread": [18, 22]},
  {"way": "no cache", "tokens": 65536, "dense_over_step": 10, "dense_over_step_spread": [9, 11]}]},
 "fetch": {"gbps": 1, "gbps_spread": [0.9, 1.1]}}
END
sed 's/20, /30, /; s/\[18, 22\]/[26, 33]/; s/"gbps": 1/"gbps": 2/; s/\[0.9, 1.1\]/[1.9, 2.1]/' "$dir/a.json" >"$dir/b.json"
ends 0 bench compare "$dir/a.json" "$dir/a.json"
prints '^0 of 2 figures changed'
ends 1 bench compare "$dir/a.json" "$dir/b.json"
prints '^step.rows\[default 65536\].dense_over_step: 20 (18 … 22) -> 30 (26 … 33), +50 %$'
prints '^1 of 2 figures changed'
ends 1 bench compare --all "$dir/a.json" "$dir/b.json"
prints '^fetch.gbps: '
prints '^2 of 3 figures changed'
printf '{}' >"$dir/empty.json"
ends 1 bench compare "$dir/a.json" "$dir/empty.json"
says 'no figure in common'
ends 1 bench compare "$dir/a.json" "$dir/absent"
ends 2 bench compare "$dir/a.json"
root=$(dirname "$0")/../..
SCOUTKV=$scoutkv "$root/deploy/bench-compare" "$dir/a.json" "$dir/b.json" >"$dir/out" 2>"$dir/err"
[ $? -eq 1 ] || fail "deploy/bench-compare did not end with 1"
prints '^1 of 2 figures changed'
"$root/deploy/bench-smoke" --help >"$dir/out" || fail "bench-smoke --help"
prints '^Usage: deploy/bench-smoke'
"$root/deploy/bench-smoke" --zebra >/dev/null 2>&1
[ $? -eq 2 ] || fail "bench-smoke took an unknown option"
