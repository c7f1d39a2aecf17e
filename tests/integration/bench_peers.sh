#!/bin/sh
# scoutkv bench peers: a small run with the peers that are installed, one without any, and deploy/peers' mistakes.
. "$(dirname "$0")/cli_common"

small="--rounds 1 --seconds 0.1 --set 4MiB"

# ratio NAME: of the last run; "null" where a peer is absent.
ratio() {
    sed -n "/\"ratios\"/,/}/s/^ *\"$1\": \([-0-9.e]*\|null\),*\$/\1/p" "$dir/out"
}
sane() {
    awk "BEGIN { exit !($(ratio "$1") > 0.001 && $(ratio "$1") < 1000) }" || fail "$1 is $(ratio "$1"): $(cat "$dir/out")"
}

# Without peers: what is our own is compared all the same, and the others are said to be absent.
program=$(realpath "$scoutkv")
mkdir "$dir/none"
# shellcheck disable=SC2086 # a list of words
(PATH=$dir/none TMPDIR=$dir/none "$program" bench peers $small) >"$dir/out" 2>"$dir/err" || fail "without peers it ended with $?"
for name in tcp_256k zmq_256k tcp_32k_x64 zmq_32k_x64 scattered_8k; do
    sane $name
done
for name in redis_256k redis_unix_256k memcached_256k iperf3_256k redis_32k_x64 memcached_32k_x64; do
    [ "$(ratio $name)" = null ] || fail "$name is '$(ratio $name)', and there is none"
done
prints '"redis": "redis-server"'
says 'absent: iperf3 is not installed (deploy/peers'
[ -z "$(ls "$dir/none")" ] || fail "files stay"

# With those that are here: all of them have a figure, or are named as absent.
# shellcheck disable=SC2086
TMPDIR=$dir ends 0 bench peers $small --lanes 2 --window 3 --json
[ ! -s "$dir/err" ] || fail "--json prints more than the object"
for name in zmq_256k redis_256k redis_unix_256k memcached_256k iperf3_256k redis_32k_x64 memcached_32k_x64; do
    peer=${name%_256k}
    peer=${peer%_32k_x64}
    if grep -q "\"$peer\": \"" "$dir/out"; then
        [ "$(ratio $name)" = null ] || fail "$name has a figure and is absent"
    else
        sane $name
    fi
done
prints '"window": 3'
prints '"lanes": 2'
prints '"rounds": 1'

# Some of them, and no more.
# shellcheck disable=SC2086
TMPDIR=$dir ends 0 bench peers $small --peers zmq --sizes 256k
sane zmq_256k
says 'pieces of 256 KiB'
prints '"cpu_s_per_gb"'
if grep -q 'tcp\|redis\|32k' "$dir/out" || grep -q '32 KiB' "$dir/err"; then
    fail "--peers and --sizes leave others in: $(cat "$dir/out" "$dir/err")"
fi

for bad in "--rounds 0" "--window 129" "--seconds 0" "--set 1" "--lanes 9" "--size 4KiB" "--peers tcp,ours" "--sizes 4k" "--sizes ,"; do
    # shellcheck disable=SC2086
    ends 2 bench peers $bad
    says 'scoutkv bench peers'
done
TMPDIR=$dir/absent ends 1 bench peers
says absent

deploy/peers --fast >"$dir/out" 2>"$dir/err" && fail "deploy/peers --fast succeeded"
says 'no such option'
deploy/peers --help | grep -q redis-server || fail "deploy/peers --help does not say what it installs"
