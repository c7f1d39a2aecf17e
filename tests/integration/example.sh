#!/bin/sh
# decoder/examples/attend: an engine on the public header; the same bits from an embedded node and from three.
set -u
dir=$(mktemp -d)
finish() {
    deploy/cluster down --dir "$dir/nodes" >/dev/null 2>&1
    rm -rf "$dir"
}
trap finish EXIT
trap 'exit 1' INT TERM
fail() {
    echo "example: $*" >&2
    cat "$dir"/*.txt >&2
    exit 1
}
"$BUILD/examples/attend" >"$dir/embedded.txt" 2>&1 || fail "it failed with a node inside the process"
grep -q 'the same bits' "$dir/embedded.txt" || fail "it did not say that the bits are the same"

deploy/cluster up -n 3 --port 0 --ram 64MiB --build "$BUILD" --dir "$dir/nodes" >"$dir/up.txt" 2>&1 || fail "no nodes"
nodes=$(sed -n 's/^--nodes //p' "$dir/up.txt")
"$BUILD/examples/attend" "$nodes" >"$dir/remote.txt" 2>&1 || fail "it failed over three nodes"
# What was fetched may differ a little: the cache forgets pages in the order of their arrival.
outputs() { sed -n 's/.*\(output [0-9a-f]*\),.*/\1/p' "$1"; }
[ "$(outputs "$dir/embedded.txt" | wc -l)" -eq 3 ] || fail "it did not decode three times"
[ "$(outputs "$dir/embedded.txt")" = "$(outputs "$dir/remote.txt")" ] || fail "three nodes and one give different bits"

"$BUILD/examples/attend" 127.0.0.1:1 >"$dir/absent.txt" 2>&1 && fail "it succeeded without a node"
[ "$(wc -l <"$dir/absent.txt")" -eq 1 ] || fail "an absent node is not told in one line"
