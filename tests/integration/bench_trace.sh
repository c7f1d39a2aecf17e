#!/bin/sh
# scoutkv bench trace: a trace with known hits against real nodes, with room and without; bad traces; Ctrl-C.
. "$(dirname "$0")/cli_common"

# field NAME: a number of the last run's JSON; the first of that name.
field() {
    sed -n "s/^ *\"$1\": \([-0-9.]*\),*\$/\1/p" "$dir/out" | head -n 1
}
# hits NAME: blocks of "hits" or "bound"
hits() {
    sed -n "/^ *\"$1\": {/,/}/s/^ *\"blocks\": \([0-9]*\),*\$/\1/p" "$dir/out"
}
# is NAME VALUE
is() {
    [ "$(field "$1")" = "$2" ] || fail "$1 is '$(field "$1")', wanted $2: $(cat "$dir/out")"
}
# hit NAME VALUE
hit() {
    [ "$(hits "$1")" = "$2" ] || fail "$1: '$(hits "$1")' blocks, wanted $2: $(cat "$dir/out")"
}

# Six requests, 15 blocks, 8 of them distinct; 6 hits: 0 + 2 + 3 + 0 (7 is not there, so 1 is of no use) + 0 + 1.
cat >"$dir/known" <<END
{"timestamp": 0, "input_length": 1500, "output_length": 3, "hash_ids": [1, 2, 3]}
{"timestamp": 100, "input_length": 2048, "output_length": 3, "hash_ids": [1, 2, 4, 5], "extra": {"a": [1]}}

{"timestamp": 200, "input_length": 1400, "output_length": 3, "hash_ids": [1, 2, 3]}
{"timestamp": 300, "input_length": 1536, "output_length": 3, "hash_ids": [7, 1, 8]}
{"timestamp": 300, "input_length": 100, "output_length": 3, "hash_ids": []}
{"timestamp": 400, "input_length": 1000, "output_length": 3, "hash_ids": [7, 9]}
END

# Two nodes with room: exactly what an infinite cache hits, and the bytes that go with it.
start_nodes 2
ends 0 bench trace "$dir/known" --nodes "$nodes" --json
is requests 6
is blocks 15
is tokens 7584
is distinct_blocks 8
hit hits 6
hit bound 6
prints '"complete": true'
is older_blocks 0
is stranded_blocks 1
is gone_blocks 0
is put_blocks 9
is full_blocks 0
is block_bytes 131072
is fetched_bytes $((6 * 131072))
is put_bytes $((9 * 131072))
is ram 0
is disk 0
"$scoutkv" stats --nodes "$nodes" --json >"$dir/stats"
[ "$(awk -F '[:,]' '/"blocks"/ { n += $2 } END { print n }' "$dir/stats")" -eq 8 ] || fail "the nodes do not hold 8 blocks"

# Again: all is there already, and is said to be; another seed's blocks are others; fewer requests, larger blocks.
ends 0 bench trace "$dir/known" --nodes "$nodes" --json
hit hits 15
hit bound 6
is older_blocks 9
ends 0 bench trace "$dir/known" --nodes "$nodes"
prints '9 of the hits had been stored before'
ends 0 bench trace "$dir/known" --nodes "$nodes" --seed 2 --requests 2 --bytes-per-token 4096 --json
is requests 2
hit hits 2
is block_bytes 2097152
is fetched_bytes $((2 * 2097152))
ends 0 bench trace "$dir/known" --nodes "$nodes" --seed 3
prints '^requested  *15  100.00 % '
prints '^hits  *6   40.00 % '
prints '^infinite cache  *6   40.00 % '
prints '128 KiB a token, 512 times'

# At 4 times its speed the last request is due after 100 ms.
ends 0 bench trace "$dir/known" --nodes "$nodes" --seed 4 --speed 4 --json
hit hits 6
is speed 4.0
awk -v s="$(field seconds)" 'BEGIN { exit !(s >= 0.1) }' || fail "a trace of 400 ms took $(field seconds) s at 4 times its speed"

# 2,600 requests of 4 blocks of 32 KiB, in two rounds of 1,300: 5,200 distinct blocks, 162.5 MiB.
awk 'BEGIN {
    for (round = 0; round < 2; round++)
        for (i = 0; i < 1300; i++)
            printf "{\"timestamp\": %d, \"input_length\": 2048, \"hash_ids\": [%d, %d, %d, %d]}\n", i,
                4 * i, 4 * i + 1, 4 * i + 2, 4 * i + 3
}' >"$dir/large"

# RAM for a part of them: what does not fit is refused, what was stored first stays.
ends 0 bench trace "$dir/large" --bytes-per-token 64 --ram 48MiB --json
is blocks 10400
hit bound 5200
is ram 0
[ "$(field full_blocks)" -gt 1000 ] || fail "a full node refused only $(field full_blocks) blocks"
n=$(hits hits)
if [ "$n" -lt 500 ] || [ "$n" -gt 1600 ]; then fail "48 MiB of RAM gave $n hits"; fi
ends 0 bench trace "$dir/large" --bytes-per-token 64 --ram 48MiB
prints 'were refused (FULL)'

# A disk for a part of them: the store evicts, nothing is refused, nothing fails, every byte is right.
ends 0 bench trace "$dir/large" --bytes-per-token 64 --ram 16MiB --disk "$dir/small:64MiB" --json
prints '"complete": true'
[ "$(field disk)" -gt 1000 ] || fail "a full disk evicted only $(field disk) blocks"
n=$(hits hits)
[ "$n" -lt 5200 ] || fail "64 MiB of disk gave $n hits"

# A disk for all of them.
ends 0 bench trace "$dir/large" --bytes-per-token 64 --ram 32MiB --disk "$dir/enough:256MiB" --json
hit hits 5200
is disk 0
is full_blocks 0
[ "$(field ram)" -gt 1000 ] || fail "32 MiB of RAM evicted only $(field ram) blocks"


# Bad traces: the line and what is wrong with it, before anything is stored.
before=$("$scoutkv" stats --nodes "$nodes" --json | grep '"puts"')
bad() {
    { sed -n 1,2p "$dir/known" && echo "$1"; } >"$dir/bad"
    ends 1 bench trace "$dir/bad" --nodes "$nodes"
    says "bad:3: $2"
    [ "$(wc -l <"$dir/err")" -eq 1 ] || fail "a bad line took more than a line to tell"
    [ ! -s "$dir/out" ] || fail "a bad trace was replayed"
}
bad '{"timestamp": 1, "input_length": 512' 'not JSON'
bad '{"timestamp": 1, "input_length": 512}' 'hash_ids must be a list'
bad '{"timestamp": 1, "hash_ids": [1]}' 'input_length'
bad '{"timestamp": 1, "input_length": 5120, "hash_ids": [1]}' '5120 tokens are 10 blocks'
[ "$before" = "$("$scoutkv" stats --nodes "$nodes" --json | grep '"puts"')" ] || fail "a bad trace stored something"
ends 1 bench trace "$dir/absent"
says 'absent'
: >"$dir/empty"
ends 1 bench trace "$dir/empty"
says 'no request'
ends 2 bench trace
says 'missing FILE'
ends 2 bench trace "$dir/known" --bytes-per-token 9000
ends 2 bench trace "$dir/known" --bytes-per-token 1031
says 'bytes-per-token'
ends 2 bench trace "$dir/known" --disk "$dir/d:64MiB" --nodes "$nodes"
says 'disk'
ends 2 bench trace "$dir/known" --requests 0
ends 4 bench trace "$dir/known" --nodes 127.0.0.1:1 --timeout-ms 500
says '127.0.0.1:1'

# Ctrl-C while it waits for a request that is due in an hour: what was measured is told.
{ sed -n 1,2p "$dir/known" && echo '{"timestamp": 3600000, "input_length": 512, "hash_ids": [1]}'; } >"$dir/long"
"$scoutkv" bench trace "$dir/long" --nodes "$nodes" --seed 6 --speed 1 --json >"$dir/out" 2>"$dir/err" &
replay=$!
pids="$pids $replay"
puts() { "$scoutkv" stats --nodes "$nodes" --json | awk -F '[:,]' '/"puts"/ { n += $2 } END { print n }'; }
start=$(echo "$before" | awk -F '[:,]' '{ n += $2 } END { print n }')
for _ in $(seq 200); do
    [ "$(puts)" -ge $((start + 5)) ] && break
    sleep 0.1
done
kill -INT $replay
wait $replay
status=$?
[ $status -eq 130 ] || fail "Ctrl-C ended it with status $status"
prints '"complete": false'
is requests 2
is trace_requests 3
hit hits 2
