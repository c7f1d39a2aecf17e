#!/bin/sh
# Simulated clusters, from fixed seeds: what was acknowledged is readable while a holder lives, no other bytes come back,
# every request ends and nothing leaks; and a real one, whose node is killed. A sanitizer sees fewer seeds, since it is
# slow. CHECK_CLUSTER_N says how many.
set -u
# shellcheck source=tests/integration/builds
. "$(dirname "$0")/builds"
count=500
! sanitized || count=60
count=${CHECK_CLUSTER_N:-$count}
out=$(mktemp)
trap 'rm -f "$out"' EXIT
tests/sim/check "$BUILD" "${CHECK_CLUSTER_SEED:-1}" "$count" >"$out"
status=$?
cat "$out"
[ $status -eq 0 ] || exit 1
tail -n 1 "$out" | grep -Eqx "cluster: $count seeds clean, [1-9][0-9]* faults, failover ok" || {
    echo "check_cluster: the last line is not what it should be" >&2
    exit 1
}
