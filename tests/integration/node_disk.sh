#!/bin/sh
# A memory node with a disk, as a process: what it acknowledged is there after SIGTERM, SIGKILL and restarts;
# whose a directory is; what --disk takes; the node inside scoutkv with a disk.
. "$(dirname "$0")/cli_common"
memnode=$BUILD/scoutkv-memnode
node= addr=

# begin NAME ARGS…: waits until it listens; sets node and addr. Its log is appended to $dir/log.
begin() {
    : >"$dir/listening"
    "$memnode" --listen 127.0.0.1:0 --id "$@" >"$dir/listening" 2>>"$dir/log" &
    node=$!
    pids="$pids $node"
    for _ in $(seq 100); do
        grep -q listening "$dir/listening" && break
        sleep 0.1
    done
    addr=$(sed -n 's/^listening on tcp:\/\///p' "$dir/listening")
    [ -n "$addr" ] || fail "'$*' did not start: $(tail -3 "$dir/log")"
}
# stop SIGNAL STATUS
stop() {
    kill "-$1" "$node"
    wait "$node" 2>/dev/null
    status=$?
    [ $status -eq "$2" ] || fail "SIG$1 ended it with status $status, wanted $2: $(tail -3 "$dir/log")"
}
# logged PATTERN
logged() {
    grep -q -- "$1" "$dir/log" || fail "the node did not log '$1': $(cat "$dir/log")"
}
# refuses STATUS PATTERN ARGS…: the node ends with the status and says the pattern
refuses() {
    want=$1 pattern=$2
    shift 2
    timeout 20 "$memnode" "$@" >"$dir/out" 2>"$dir/err"
    status=$?
    [ $status -eq "$want" ] || fail "'$*' ended with status $status, wanted $want"
    says "$pattern"
}
# all_there LOG: every promise in it holds
all_there() {
    ends 0 check --nodes "$addr" --log "$1"
    prints '^missing *0$'
    prints '^wrong *0$'
}
counter() { "$scoutkv" stats --nodes "$addr" --all | sed -n "s/^$1  *\([0-9]*\) *$/\1/p"; }

# What --disk takes.
refuses 2 'DIR:SIZE' --disk "$dir/a"
refuses 2 'DIR:SIZE' --disk "$dir/a:lots"
refuses 2 'DIR:SIZE' --disk :1GiB
refuses 2 'at least 64 MiB' --disk "$dir/a:63MiB"
refuses 2 'given twice' --disk "$dir/a:64MiB" --disk "$dir/a:128MiB"
refuses 2 'needs an --id' --disk "$dir/a:64MiB" --listen 127.0.0.1:0
refuses 2 'verify' --json
refuses 2 'leave out --disk' --verify "$dir/a" --disk "$dir/a:64MiB"
[ ! -e "$dir/a" ] || fail "a refused --disk left a directory"
refuses 1 'does not exist' --listen 127.0.0.1:0 --id one --disk "$dir/no/such:64MiB"

# Without a disk, nothing is durable.
begin plain --ram 16MiB
ends 1 load --nodes "$addr" --log "$dir/none" --count 2 --ack durable
says 'has no disk'
stop TERM 0

# Durable blocks, more than RAM holds, read back from the disk and again after an orderly end.
begin one --ram 32MiB --disk "$dir/a:256MiB"
logged 'RAM and 0.25 GiB on 1 disk'
logged 'index complete .* 0 blocks'
ends 0 load --nodes "$addr" --seed 3 --count 300 --size 256K --log "$dir/acks" --ack durable
all_there "$dir/acks"
[ "$(counter puts_durable)" -eq 300 ] || fail "puts_durable is $(counter puts_durable)"
[ "$(counter get_disk_pages)" -gt 0 ] || fail "no page came from the disk"
ends 0 stats --nodes "$addr" --json
prints '"trouble": ""'

# Its directory is taken, and belongs to its name.
refuses 1 'in use' --listen 127.0.0.1:0 --id one --disk "$dir/a:256MiB"
stop TERM 0
refuses 1 "'one'" --listen 127.0.0.1:0 --id two --disk "$dir/a:256MiB"

: >"$dir/log"
begin one --ram 32MiB --disk "$dir/a:256MiB"
all_there "$dir/acks"
logged 'index complete .* 300 blocks'
logged 'first GET served'

# Blocks acknowledged from RAM are on the disk, too, when the node has ended in good order.
ends 0 load --nodes "$addr" --seed 4 --count 40 --size 256K --log "$dir/ram" --ack ram
stop TERM 0
logged 'stopped'
begin one --ram 32MiB --disk "$dir/a:256MiB"
all_there "$dir/acks"
all_there "$dir/ram"

# Killed while it writes: every promise that was given holds.
"$scoutkv" load --nodes "$addr" --seed 5 --count 400 --size 256K --log "$dir/killed" --ack durable >/dev/null 2>&1 &
load=$!
for _ in $(seq 200); do
    [ "$(grep -c ack "$dir/killed" 2>/dev/null)" -ge 50 ] 2>/dev/null && break
    sleep 0.02
done
kill -KILL "$node"
wait "$node" 2>/dev/null
wait "$load"
[ -s "$dir/killed" ] || fail "nothing was acknowledged before the kill"
begin one --ram 32MiB --disk "$dir/a:256MiB"
all_there "$dir/acks"
all_there "$dir/ram"
all_there "$dir/killed"
stop TERM 0

# Two disks, and threads in place of io_uring.
: >"$dir/log"
SCOUTKV_IO=threads
export SCOUTKV_IO
begin two --ram 32MiB --disk "$dir/b:64MiB" --disk "$dir/c:128MiB"
logged 'on 2 disks'
logged 'threads read and write'
ends 0 load --nodes "$addr" --seed 6 --count 200 --size 256K --log "$dir/both" --ack durable
stop KILL 137
begin two --ram 32MiB --disk "$dir/b:64MiB" --disk "$dir/c:128MiB"
all_there "$dir/both"
stop TERM 0
unset SCOUTKV_IO

"$memnode" --verify "$dir/a" >"$dir/out" 2>"$dir/err" || fail "--verify found damage: $(cat "$dir/out")"
prints 'all right'
refuses 2 'cannot' --verify "$dir/absent"

# The node inside scoutkv, with a disk: a second run finds its blocks, and answers as one without does.
ends 0 make-model random -o "$dir/random.gguf" --layers 2 --dim 64 --heads 4 --kv-heads 2 --ff 64
seq 1 400 | tr '\n' ' ' >"$dir/prompt"
set -- run -m "$dir/random.gguf" -f "$dir/prompt" -c 20000 -n 8 --ignore-eos --temp 0 --window 64 --budget 64 --cache 64KiB
ends 2 "$@" --disk "$dir/d:64MiB" --nodes 127.0.0.1:9
says 'disk'
ends 2 "$@" --disk "$dir/d:1MiB"
says 'at least 64 MiB'
ends 1 "$@" --ack durable
says 'has no disk'
ends 0 "$@"
cp "$dir/out" "$dir/in-ram"
for again in 1 2; do
    ends 0 "$@" --ram 16MiB --disk "$dir/d:64MiB" --ack durable
    same "$dir/in-ram" "$dir/out" "run $again with a disk gave another text"
done
"$memnode" --verify "$dir/d" --json >"$dir/out" 2>"$dir/err" || fail "--verify found damage: $(cat "$dir/out")"
prints '"records": *[1-9]'
