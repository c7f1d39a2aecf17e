#!/bin/sh
# `scoutkv cluster status|rebalance` on real nodes: copies that were lost are made again, a third node gets its
# share, and what does not belong is dropped; status --scan says so before and after.
. tests/integration/cli_common
. tests/integration/cluster_common

start_node n1 127.0.0.1:0
a1=$address
start_node n2 127.0.0.1:0
a2=$address
two=n1@$a1,n2@$a2
ends 0 load --nodes "$two" --replicas 2 --count 600 --size 16K --seed 9 --log "$dir/acks"
scan 0 "$two" blocks=600 in_place=600 missing=0 elsewhere=0 lost=0
ends 0 cluster rebalance --nodes "$two" --replicas 2
prints '^0 copies made'

# A third node gets its share, and no other copies stay.
start_node n3 127.0.0.1:0
a3=$address
three=$two,n3@$a3
ends 0 cluster status --nodes "$three"
prints '^n3 .* up '
ends 0 cluster status --nodes "$three" --replicas 2 --scan
prints '^600 blocks .*rebalance. puts that right'
ends 0 cluster rebalance --nodes "$three" --replicas 2
prints '^all 600 blocks have their 2 copies where they belong'
scan 0 "$three" blocks=600 in_place=600 missing=0 elsewhere=0
[ "$(grep -c '"blocks": [34][0-9][0-9],' "$dir/out")" -eq 3 ] || fail "1200 copies are not spread: $(cat "$dir/out")"
ends 0 check --nodes "$three" --replicas 2 --log "$dir/acks"

# A node that came back empty is given what it had; while it is away, nothing is moved.
kill -KILL "$pid_n2"
wait "$pid_n2" 2>/dev/null
ends 4 cluster status --nodes "$three" --timeout-ms 500
prints '^n2 .* down '
says 'no memory node answers'
scan 4 "$three" absent_nodes=1 lost=0
ends 4 cluster rebalance --nodes "$three" --replicas 2 --timeout-ms 500
prints '^0 copies made'
start_node n2 "$a2"
ends 0 cluster rebalance --nodes "$three" --replicas 2 --rate 100M
prints '^all 600 blocks'
scan 0 "$three" in_place=600
ends 0 check --nodes "$three" --replicas 2 --log "$dir/acks"

# What cannot be.
ends 2 cluster
ends 2 cluster rebalance
ends 2 cluster sideways
ends 0 cluster rebalance --help
prints 'begun again'
ends 1 cluster rebalance --nodes "$three" --replicas 9
says '9 replicas need as many'

# ---- add, drain, remove ----
start_node n4 127.0.0.1:0
a4=$address
ends 0 cluster add --node "n4@$a4*2" --nodes "$three" --replicas 2
prints '^the cluster has 4 nodes now (epoch 1)'
prints '^all 600 blocks have their 2 copies'
scan 0 "n1@$a1" blocks=600 in_place=600 missing=0 elsewhere=0 # one node tells of the others
[ "$(grep -c '"epoch": 1,$' "$dir/out")" -eq 4 ] || fail "not all know the view: $(cat "$dir/out")"
ends 0 check --nodes "$three" --replicas 2 --log "$dir/acks"
ends 0 cluster drain --node n1 --nodes "$a2" --replicas 2
prints '^all 600 blocks have their 2 copies'
ends 0 cluster status --nodes "$a2"
prints '^n1 .* draining  *1  *2  *0 '
ends 0 cluster remove --node n1 --nodes "$a2" --replicas 2
prints '^the cluster has 3 nodes now (epoch 3)'
kill -KILL "$pid_n1"
wait "$pid_n1" 2>/dev/null
scan 0 "$a2" blocks=600 in_place=600
ends 0 check --nodes "$a2" --replicas 2 --log "$dir/acks"

# A dead node is taken out by force, and its copies are rebuilt.
kill -KILL "$pid_n3"
wait "$pid_n3" 2>/dev/null
ends 4 cluster remove --node n3 --nodes "$a2" --replicas 2 --timeout-ms 500
says 'does not answer'
ends 0 cluster remove --node n3 --nodes "$a2" --replicas 2 --timeout-ms 500 --force
prints '^all 600 blocks have their 2 copies'
ends 0 check --nodes "$a2" --replicas 2 --log "$dir/acks"

ends 0 load --nodes "$a2" --count 50 --size 16K --seed 10 --log "$dir/single"
ends 1 cluster remove --node n4 --nodes "$a2" --replicas 1
says 'no other copy: drain it first'

# An impostor, the last node, nonsense.
ends 2 cluster add --node "n9@$a4" --nodes "$a2" --replicas 2 --timeout-ms 500
says 'answers there'
ends 2 cluster drain --node n4 --nodes "$a2" --replicas 2
says 'add a node first'
ends 2 cluster drain --node n7 --nodes "$a2"
ends 2 cluster add --node "$a4" --nodes "$a2"
