#!/bin/sh
# The block store on simulated disks, from fixed seeds: nothing acknowledged is lost, and no other bytes come back.
# A sanitizer sees fewer histories, since it is slow. CHECK_STORE_N says how many.
set -u
# shellcheck source=tests/integration/builds
. "$(dirname "$0")/builds"
count=500
! sanitized || count=60
count=${CHECK_STORE_N:-$count}
out=$(mktemp)
trap 'rm -f "$out"' EXIT
"$BUILD/tests/store/check_store" --seed "${CHECK_STORE_SEED:-1}" --count "$count" >"$out"
status=$?
cat "$out"
[ $status -eq 0 ] || exit 1
tail -n 1 "$out" | grep -Eqx "store: $count histories, [1-9][0-9]* acks, 0 lost, [1-9][0-9]* flips, 0 wrong" || {
    echo "check_store: the last line is not what it should be" >&2
    exit 1
}
