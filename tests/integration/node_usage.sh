#!/bin/sh
# scoutkv-memnode: options, exit codes and what it says.
set -u
dir=$(mktemp -d)
node=
finish() {
    [ -n "$node" ] && kill "$node" 2>/dev/null && wait "$node" 2>/dev/null
    rm -rf "$dir"
}
trap finish EXIT
trap 'exit 1' INT TERM
memnode=$BUILD/scoutkv-memnode
fail() {
    echo "node_usage: $*" >&2
    sed 's/^/  node: /' "$dir"/err* >&2
    exit 1
}
# ends STATUS PATTERN ARGS…: exits with the status and says the pattern
ends() {
    want=$1 pattern=$2
    shift 2
    timeout 20 "$memnode" "$@" >"$dir/out" 2>"$dir/err"
    status=$?
    [ $status -eq "$want" ] || fail "'$*' ended with status $status, wanted $want"
    cat "$dir/out" "$dir/err" | grep -q -- "$pattern" || fail "'$*' did not say '$pattern'"
}
# start ARGS…: waits until it listens; sets node and addr
start() {
    "$memnode" "$@" >"$dir/out" 2>"$dir/err" &
    node=$!
    for _ in $(seq 100); do
        grep -q listening "$dir/out" && break
        sleep 0.1
    done
    addr=$(sed -n 's/^listening on tcp:\/\///p' "$dir/out")
    [ -n "$addr" ] || fail "'$*' did not start"
}
stop() {
    kill "-$1" "$node"
    wait "$node"
    status=$?
    node=
    [ $status -eq 0 ] || fail "SIG$1 ended it with status $status"
}

ends 0 "memory node" --help
ends 0 "scoutkv-memnode" --version
ends 2 "nonsense" --nonsense
ends 2 "8 MiB" --ram 1k
ends 2 "ram" --ram lots
ends 2 "host:port" --listen nowhere
ends 2 "any" --namespaces 1,,2
ends 2 "log-level" --log-level loud
ends 2 "id" --id ''
ends 2 "extra" extra
ends 1 "cannot listen" --listen 192.0.2.1:7071
ends 2 "" --config "$dir/absent.conf"

start --listen 127.0.0.1:0 --ram 16MiB
grep -q "$addr: serving cluster 'default'" "$dir/err" || fail "without --id it does not go by its address"
ends_addr=$addr
first=$node
mv "$dir/err" "$dir/err.first"
node=
timeout 20 "$memnode" --listen "$ends_addr" >"$dir/out" 2>"$dir/err"
status=$?
node=$first
[ $status -eq 1 ] || fail "a taken port ended with status $status"
grep -q "another port" "$dir/err" || fail "a taken port was not explained"
stop INT

printf 'ram = 16MiB\nid = from-file\ncluster = blue\nlisten = 127.0.0.1:0\n' >"$dir/node.conf"
start --config "$dir/node.conf" --id from-line
grep -q "from-line: serving cluster 'blue'" "$dir/err" || fail "the configuration file and the line were not joined"
if answer=$("$BUILD/tests/tools/zmq_poke" "$addr" stats 2>&1); then
    fail "a client of another cluster was served"
fi
case $answer in *"'blue', not 'default'"*) ;; *) fail "the cluster was not named: $answer" ;; esac
stop TERM

start --listen 0.0.0.0:0 --ram 16MiB
grep -q "no authentication" "$dir/err" || fail "listening beyond loopback goes without a warning"
stop TERM
