#!/bin/sh
# scoutkv bench fetch: small runs against own nodes and given ones; its JSON, CSV and plot; mistakes; nothing stays.
. "$(dirname "$0")/cli_common"

quick="--set 1MiB --seconds 0.05 --warm-up 0 --rounds 2"

# numbers NAME…: of the last run's JSON, the first of each name
field() {
    sed -n "s/^ *\"$1\": \([-0-9.e]*\),*\$/\1/p" "$dir/out" | head -n 1
}
# holds 'AWK EXPRESSION of numbers' WHAT
holds() {
    awk "BEGIN { exit !($1) }" || fail "$2: $1: $(cat "$dir/out")"
}

# Own nodes: what it counts fits together, a share of what TCP gives is a sane number.
ends 0 bench fetch $quick --start 2 --size 64KiB --batch 3 --json
for key in gbps requests_per_s tcp_gbps tcp_share client_cpu_s_per_gb node_cpu_s_per_gb tcp_client_cpu_s_per_gb \
    tcp_server_cpu_s_per_gb avg p50 p90 p99 p999 max; do
    holds "$(field $key) > 0" "$key"
    prints "\"$key"
done
holds "$(field request_bytes) == 3 * 65536" "bytes of a request"
holds "$(field pages) > 0 && $(field missed_pages) == 0" pages
holds "$(field tcp_share) > 0.001 && $(field tcp_share) < 100" "share of TCP"
holds "$(field p50) <= $(field p90) && $(field p90) <= $(field p99) && $(field p99) <= $(field max)" quantiles
holds "$(field gbps) * 1e9 / $(field requests_per_s) / $(field request_bytes) < 3" "bytes by requests"
[ "$(field nodes)" = 2 ] || fail "not two nodes"
prints '"verified": true'
[ ! -s "$dir/err" ] || fail "it said something"

# Misses, scattered pages, without checks, at a rate, several lanes; ended by a count.
ends 0 bench fetch $quick --size 1MiB --pages 4 --batch 8 --lanes 2 --misses 0.5 --verify off --json
holds "$(field request_bytes) == 8 * 4 * 8192" "bytes of scattered pages"
holds "$(field missed_pages) > 0 && $(field pages) > 0" misses
prints '"verified": false'
ends 0 bench fetch $quick --size 4KiB --rate 400 --seconds 0.5 --rounds 1 --json
holds "$(field n) >= 199 && $(field n) <= 201" "requests due in half a second"
prints '"late_us"'
ends 0 bench fetch $quick --size 64KiB --seconds 100 --count 10 --json
holds "$(field requests) >= 20" "two rounds of ten"

# A sweep as CSV, with a plot.
ends 0 bench fetch $quick --size 4KiB-16KiB,1MiB --csv --plot "$dir/plot.svg"
[ "$(cut -d, -f1 "$dir/out" | paste -sd ' ')" = "size 4096 8192 16384 1048576" ] || fail "sizes: $(cat "$dir/out")"
[ "$(awk -F, '{ print NF }' "$dir/out" | sort -u | wc -l)" -eq 1 ] || fail "lines of different lengths: $(cat "$dir/out")"
grep -q '</svg>' "$dir/plot.svg" || fail "no plot"

# From disks: with little RAM, pages come from there; the folder goes.
mkdir "$dir/disk"
ends 0 bench fetch --set 128MiB --size 1MiB --seconds 0.2 --warm-up 0 --rounds 1 --disk "$dir/disk" --json
holds "$(field disk_share) > 0.1 && $(field disk_share) <= 1" "share of disk"
[ -z "$(ls "$dir/disk")" ] || fail "files stay"

# Given nodes get their room back.
start_nodes 2
ends 0 bench fetch $quick --nodes "$nodes" --replicas 2
prints 'from 2 nodes'
prints '256 KiB'
[ "$("$scoutkv" stats --nodes "$nodes" --json | awk -F '[:,]' '/"blocks"/ { n += $2 } END { print n }')" = 0 ] ||
    fail "blocks stay on the nodes"

# Mistakes, told before anything starts.
for bad in "--size 5MiB" "--size 100" "--size 4KiB-" "--size 8KiB-4KiB" "--size ," "--pages 33" "--json --csv" "--lanes 4" \
    "--nodes 127.0.0.1:1 --start 2" "--replicas 2" "--window 16384 --batch 2" "--verify no" "--misses 2" "--rate 0"; do
    # shellcheck disable=SC2086 # a list of words
    ends 2 bench fetch $bad
    says 'scoutkv bench fetch'
done
ends 4 bench fetch --nodes 127.0.0.1:1 --timeout-ms 300
ends 1 bench fetch $quick --disk "$dir/absent"
says absent
ends 1 bench fetch --set 256MiB --ram 64MiB --rounds 1
says 'no room for the set'

# Ctrl-C ends it and its nodes.
"$scoutkv" bench fetch --set 1MiB --seconds 100 >"$dir/out" 2>"$dir/err" &
bench=$!
pids="$pids $bench"
children() { # of process $1; a name has no space here
    cat /proc/[0-9]*/stat 2>/dev/null | awk -v parent="$1" '$4 == parent { print $1 }'
}
for _ in $(seq 100); do
    own=$(children $bench) && [ "$(echo "$own" | wc -l)" -ge 2 ] && break
    sleep 0.1
done
kill -INT $bench
wait $bench
status=$?
[ $status -eq 130 ] || fail "Ctrl-C ended it with status $status"
for pid in $own; do
    [ ! -e "/proc/$pid/exe" ] || fail "process $pid stays"
done
