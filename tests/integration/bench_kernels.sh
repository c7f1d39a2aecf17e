#!/bin/sh
# scoutkv bench kernels: small runs; every kernel has its figures, and they fit together; both families; mistakes.
. "$(dirname "$0")/cli_common"

small="--size 1MiB --rounds 1 --threads 1"

# check: the last run's JSON: shares are those of the limit that it names, and sane.
check() {
    awk '
        /"name"/ { gsub(/[",]/, ""); name = $2; n++ }
        /"limited_by"/ { gsub(/[",]/, ""); by = $2 }
        /^ *"(gbps|gflops|read_gbps|peak_gflops|share)":/ { gsub(/[",:]/, ""); v[$1] = $2 }
        /"share_spread"/ {
            limit = by == "memory" ? v["gbps"] / v["read_gbps"] : v["gflops"] / v["peak_gflops"]
            if (!(v["share"] > 0 && v["share"] < 50 && limit / v["share"] > 0.999 && limit / v["share"] < 1.001))
                { print name ": share " v["share"] ", limit " limit; bad = 1 }
        }
        END { if (n != want) { print n " kernels, wanted " want; bad = 1 } exit bad }' want="$1" "$dir/out" >&2 ||
        fail "the figures do not fit together"
}

# shellcheck disable=SC2086 # lists of words
{
    ends 0 bench kernels $small --json
    check 28
    ends 0 bench kernels $small --only gemv_q --threads 1,2 --json
    check 8
    SKV_ISA=portable ends 0 bench kernels $small --only attention --threads 2
    prints 'isa portable'
    prints '^attention_g8 *2 '
    [ "$(wc -l <"$dir/out")" -eq 9 ] || fail "five kernels are not nine lines"
}
for bad in "--only nothing" "--threads 0" "--threads 1," "--threads x" "--size 1" "--rounds 0"; do
    # shellcheck disable=SC2086
    ends 2 bench kernels $bad
    says 'scoutkv bench kernels'
done
SKV_ISA=none ends 1 bench kernels $small
says 'SKV_ISA=none'
