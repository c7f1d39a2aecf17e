#!/bin/sh
# A memory node as a process: what no client should send does not kill it, is refused with a reason, and is counted.
set -u
dir=$(mktemp -d)
node=
finish() {
    [ -n "$node" ] && kill "$node" 2>/dev/null && wait "$node" 2>/dev/null
    rm -rf "$dir"
}
trap finish EXIT
trap 'exit 1' INT TERM
fail() {
    echo "node_abuse: $*" >&2
    sed 's/^/  node: /' "$dir/err" >&2
    exit 1
}
poke() { "$BUILD/tests/tools/zmq_poke" "$addr" "$1"; }
counter() { poke stats | sed -n "s/^$1 //p"; }
# counter_reaches NAME VALUE: the monitor's counts are taken twice a second
counter_reaches() {
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        [ "$(counter "$1")" -ge "$2" ] && return 0
        sleep 0.3
    done
    fail "$1 is $(counter "$1"), wanted $2 or more"
}
expect() { # WHAT PATTERN: the refusal names the reason
    answer=$(poke "$1") || fail "$1 was not refused"
    case $answer in
    *"$2"*) ;;
    *) fail "$1 was refused with '$answer', which does not say '$2'" ;;
    esac
}

"$BUILD/scoutkv-memnode" --listen 127.0.0.1:0 --ram 64MiB --id abused >"$dir/out" 2>"$dir/err" &
node=$!
for _ in $(seq 100); do
    grep -q listening "$dir/out" && break
    sleep 0.1
done
addr=$(sed -n 's/^listening on tcp:\/\///p' "$dir/out")
[ -n "$addr" ] || fail "it did not start"

poke roundtrip || fail "a block did not come back"
expect malformed "header"
expect version "version 99"
expect durable "no disk"
for _ in 1 2 3; do poke garbage || fail "garbage could not be sent"; done
poke halfway || fail "nonsense could not be sent"
before=$(counter zmq_disconnected)
poke oversize || fail "an oversize frame was taken"
kill -0 "$node" 2>/dev/null || fail "the node died"
poke roundtrip || fail "after the abuse a block did not come back"

[ "$(counter wrong_version)" -eq 1 ] || fail "wrong_version is $(counter wrong_version)"
[ "$(counter malformed)" -ge 1 ] || fail "malformed is $(counter malformed)"
[ "$(counter refused_not_durable)" -eq 1 ] || fail "refused_not_durable is $(counter refused_not_durable)"
counter_reaches zmq_handshake_failed 4
counter_reaches zmq_disconnected $((before + 1))

kill -TERM "$node"
wait "$node"
status=$?
node=
[ $status -eq 0 ] || fail "SIGTERM ended it with status $status"
