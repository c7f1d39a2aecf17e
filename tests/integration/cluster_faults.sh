#!/bin/sh
# Real nodes fail while a run decodes, and its tokens stay those of an undisturbed run.
#
# Three nodes, every block on two of them. A text of TOKENS tokens is prefilled; once its continuation streams, the
# fault strikes; when it is over and GEN tokens have come, the run is ended and its text compared with as much of an
# undisturbed run's. Tokens are drawn from the model's distribution, so they tell more than the likeliest ones would.
#
#   kill       SIGKILL of one node, which stays dead
#   freeze     SIGSTOP of one node for HOLD seconds, then SIGCONT
#   restart    all nodes (with disks, --ack durable) one after another, each once the one before serves pages again;
#              the second one by SIGKILL
#   partition  the link of one node's host is down for HOLD seconds (deploy/netns)
#   deaf       nothing reaches one node's host for HOLD seconds
#   mute       nothing that one node's host sends arrives for HOLD seconds
#
# The full size: TOKENS=262144 GEN=256 HOLD=10 TIMEOUT_MS=1000 BUILD=build tests/integration/cluster_faults.sh
# Environment: FAULTS (a list of those above), POLICY (dense reads every block at every step; cascade what the scout
# picks), SEED of text and draws, and the above.
# shellcheck source=tests/integration/cli_common
. "$(dirname "$0")/cli_common"
tokens=${TOKENS:-16384} gen=${GEN:-64} hold=${HOLD:-2} timeout_ms=${TIMEOUT_MS:-5000} policy=${POLICY:-dense} seed=${SEED:-1}
faults='kill freeze restart partition deaf mute'
! sanitized || faults='kill freeze restart' # the others are of the net's making, and the same to the programs as a freeze
faults=${FAULTS:-$faults}
heartbeat_ms=250 # the client's default
spawned='' frozen='' tried=0 skipped=''
say() {
    printf '%-10s %s\n' "$fault" "$*"
}
stop_nodes() {
    deploy/netns down --dir "$dir/hosts" >/dev/null 2>&1
    deploy/cluster down --dir "$dir/nodes" >/dev/null 2>&1
    rm -rf "$dir/nodes" "$dir/hosts"
}
finish() {
    trap '' INT TERM
    # shellcheck disable=SC2086 # one or none of each
    kill -KILL ${spawned:-} ${frozen:-} 2>/dev/null
    stop_nodes
    rm -rf "$dir"
}
give_up() {
    tail -n 5 "$dir"/nodes/*.log "$dir"/hosts/*.log 2>/dev/null
    fail "$fault, SEED=$seed POLICY=$policy: $*"
}

# ---- a text: sentences of the recall model's language, 8 tokens each, with a fact a third of the way ----

write_text() {
    awk -v sentences=$((tokens / 8)) -v seed="$seed" '
        function draw(n) { x = (x * 1103515245 + 12345) % 2147483648; return 1 + int(x / 2147483648 * n) }
        BEGIN {
            a = split("quiet narrow broken golden silver wooden ancient bitter blue bold brave brief", adjective)
            n = split("miller lantern bridge farmer teacher doctor sailor baker painter soldier", noun)
            x = seed
            for (i = 1; i < sentences; i++)
                if (i == int(sentences / 3))
                    printf "The key of Levet is 503118. "
                else
                    printf "The %s %s visited the %s %s. ", adjective[draw(a)], noun[draw(n)], adjective[draw(a)], noun[draw(n)]
            printf "The key of Levet is"
        }'
}

# ---- nodes and the run ----

start_cluster() { # [DISK]
    deploy/cluster up -n 3 --port 0 --ram "$ram" ${1:+--disk "$1"} --build "$BUILD" --dir "$dir/nodes" >"$dir/up" 2>&1 ||
        give_up "the nodes did not start: $(cat "$dir/up")"
    where=nodes nodes=$(sed -n 's/^--nodes //p' "$dir/up")
    in_place=
}
start_hosts() {
    deploy/netns up -n 3 --ram "$ram" --build "$BUILD" --dir "$dir/hosts" >"$dir/up" 2>&1
    case $? in
    0) ;;
    77)
        skipped="$skipped $fault"
        say "skipped: $(cat "$dir/up")"
        return 1
        ;;
    *) give_up "the hosts did not start: $(cat "$dir/up")" ;;
    esac
    where=hosts nodes=$(sed -n 's/^--nodes //p' "$dir/up")
    in_place="deploy/netns exec --dir $dir/hosts h0"
}
node_pid() { # I
    cat "$dir/$where/n$1.pid"
}
node_address() { # I
    echo "$nodes" | cut -d, -f "$1"
}
decode() { # ARGUMENT...: becomes the run, so call it in a subshell
    # shellcheck disable=SC2086 # a list of words
    exec $in_place "$scoutkv" run -m "$dir/recall.gguf" -f "$dir/text" -c 100000000 --ignore-eos --seed "$seed" \
        --temp 1.5 --top-k 0 --top-p 1 --min-p 0 --policy "$policy" --cache 1MiB --nodes "$nodes" \
        --timeout-ms "$timeout_ms" "$@" </dev/null
}
size() {
    stat -c %s "$dir/$1"
}
alive() {
    kill -0 "$spawned" 2>/dev/null && [ -e "/proc/$spawned/fd/2" ]
}
# await_output BYTES: until the run has said that much
await_output() {
    while [ "$(size text.out)" -lt "$1" ]; do
        alive || give_up "the run ended: $(tail -n 3 "$dir/err")"
        sleep 0.02
    done
}
begin_run() { # ARGUMENT...; returns when it decodes
    : >"$dir/text.out"
    decode --replicas 2 "$@" >"$dir/text.out" 2>"$dir/err" &
    spawned=$!
    await_output 100
}
# What a node has served since it started. It may be too busy, or not there, to say.
served() { # I
    # shellcheck disable=SC2086 # a list of words
    $in_place "$scoutkv" stats --timeout-ms 1000 --nodes "$(node_address "$1")" --all 2>/dev/null | sed -n 's/^get_pages  *\([0-9]*\) *$/\1/p'
}
# A node is back when it serves pages to the run, again and again: more than what it was asked before it froze.
await_service() { # I
    grown=0 before=0
    for _ in $(seq 600); do
        now=$(served "$1")
        [ "${now:-0}" -le "$before" ] || grown=$((grown + 1)) before=$now
        [ $grown -lt 5 ] || return 0
        alive || give_up "the run ended: $(tail -n 3 "$dir/err")"
        sleep 0.1
    done
    give_up "n$1 is back and serves nothing"
}

# The fault is over: some more tokens, GEN in all, then the verdict; `judge` compares.
end_run() {
    await_output $(($(size text.out) + 200))
    await_output $((gen * 8))
    kill -INT "$spawned"
    wait "$spawned"
    status=$?
    spawned=
    [ $status -eq 130 ] || give_up "the run ended with status $status"
    made=$(sed -n 's/^generated *\([0-9]*\) tokens.*/\1/p' "$dir/err")
    [ "${made:-0}" -ge "$gen" ] || give_up "it generated ${made:-no} tokens, wanted $gen"
    longest=$(longest_step)
    say "$made tokens; longest step $longest ms (allowed: 2 heartbeats of $heartbeat_ms ms and one deadline of $timeout_ms ms)"
    # Machines are noisy: what decides is twice that.
    [ "${longest%.*}" -le $((2 * (2 * heartbeat_ms + timeout_ms))) ] || give_up "the longest step took $longest ms"
    sed -n '/^ms per step/s/:.*//p; /^nodes /p' "$dir/err" | sed 's/^/           /'
    mv "$dir/text.out" "$dir/said.$fault"
    tried=$((tried + 1))
    [ "$made" -le "$most" ] || most=$made
    stop_nodes
}
longest_step() {
    sed -n 's/^longest step *\([0-9.]*\) ms.*/\1/p' "$dir/err"
}

# ---- faults ----

fault_kill() {
    start_cluster
    begin_run
    kill -KILL "$(node_pid 2)"
    end_run
}
fault_freeze() {
    start_cluster
    begin_run
    frozen=$(node_pid 2)
    kill -STOP "$frozen"
    sleep "$hold"
    alive || give_up "the run ended: $(tail -n 3 "$dir/err")"
    kill -CONT "$frozen"
    frozen=
    await_service 2
    end_run
}
fault_restart() {
    start_cluster "$disk"
    begin_run --ack durable
    for i in 1 2 3; do
        signal=TERM
        [ $i -ne 2 ] || signal=KILL
        pid=$(node_pid $i)
        kill -$signal "$pid"
        while [ -e "/proc/$pid/fd/2" ]; do sleep 0.02; done
        deploy/cluster up -n 3 --ram "$ram" --disk "$disk" --build "$BUILD" --dir "$dir/nodes" \
            >"$dir/up" 2>&1 || give_up "n$i did not come back: $(cat "$dir/up")"
        await_service $i
    done
    end_run
}
cut_off() { # [in|out]
    start_hosts || return 0
    begin_run
    # shellcheck disable=SC2086 # none or one
    deploy/netns cut --dir "$dir/hosts" h2 $1 || give_up "the link could not be cut"
    sleep "$hold"
    alive || give_up "the run ended: $(tail -n 3 "$dir/err")"
    deploy/netns heal --dir "$dir/hosts" h2 || give_up "the link could not be healed"
    await_service 2
    end_run
}
fault_partition() { cut_off ''; }
fault_deaf() { cut_off in; }
fault_mute() { cut_off out; }

# ---- all ----

fault=preparing most=1
# All blocks, 1 KiB a token, on each node, and room.
ram=$((tokens / 1024 * 5 / 4 + 256))MiB disk=$((tokens / 1024 + 512))MiB
ends 0 make-model recall -o "$dir/recall.gguf"
write_text >"$dir/text"
for fault in $faults; do
    case $fault in
    kill | freeze | restart | partition | deaf | mute) "fault_$fault" ;;
    *) fail "there is no fault '$fault'" ;;
    esac
done
[ $tried -gt 0 ] || {
    echo "SKIPPED: $skipped need network namespaces"
    exit 77
}

# The undisturbed run, as long as the longest.
fault=undisturbed
start_cluster
(decode -n "$most" >"$dir/whole" 2>"$dir/err") || give_up "it failed"
say "$most tokens; longest step $(longest_step) ms"
sed -n '/^ms per step/s/:.*//p' "$dir/err" | sed 's/^/           /'
head -c 7 "$dir/whole" | grep -q '^ 503118' || give_up "the model said '$(head -c 7 "$dir/whole")', which is not the fact in its text"
for fault in $faults; do
    [ -e "$dir/said.$fault" ] || continue
    # An interrupt may fall between the bytes of a character, for which others then stand.
    n=$(($(size "said.$fault") - 3))
    cmp -n $n "$dir/whole" "$dir/said.$fault" || give_up "other tokens than undisturbed"
done
echo "cluster_faults: $tried faults, $tokens tokens of context, policy $policy: the same tokens as undisturbed${skipped:+; skipped:$skipped}"
