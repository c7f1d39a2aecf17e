#!/bin/sh
# scoutkv eval tasks, small: cascade finds all that is asked and window nothing, in every task of facts; of words
# that are counted, what dense does.
. "$(dirname "$0")/cli_common"

# number KEY [TASK [POLICY]]: a number of the JSON file, of that row if given (one key a line).
number() {
    awk -v key="\"$1\":" -v task="${2:+\"$2\":}" -v policy="${3:+\"$3\":}" '
        $1 == task { of_task = 1 }
        of_task && $1 == policy { of_policy = 1 }
        $1 == key && (task == "" || of_task) && (policy == "" || of_policy) { sub(/,$/, "", $2); print $2; exit }' "$dir/json"
}
# holds WHAT EXPRESSION: of numbers, by awk
holds() {
    awk "BEGIN { exit !($2) }" || fail "$1: $2"
}

ends 0 make-model recall -o "$dir/recall.gguf"
tasks="eval tasks -m $dir/recall.gguf --tokens 4096 --window 256 --chunk 128"
start_nodes 2
of_facts='needle multi-key multi-value multi-query variable-tracking constraint topic-shift sleeper'
! sanitized || of_facts='needle multi-query sleeper'
# shellcheck disable=SC2086 # words
ends 0 $tasks --tasks "$(echo $of_facts | tr ' ' ,)" --questions 4 --texts 1 --seed 3 --policies window,heavy-hitter,cascade,dense --dense-seconds 0.1 \
    --json "$dir/json" --nodes "$nodes"
for key in seed tokens texts questions budget_tokens window sinks select context_kv_bytes seconds; do
    [ -n "$(number $key)" ] || fail "the JSON has no $key"
done
holds "the budget is 2 % at most" "$(number budget_tokens) == 80 && $(number context_kv_bytes) == 4096 * 1024"
for task in $of_facts; do
    case $task in
    multi-value | multi-query | variable-tracking) parts=4 ;;
    *) parts=1 ;;
    esac
    holds "$task: facts" "$(number facts $task) == 128 && $(number fact_pages $task) > 80 && $(number protected_facts $task) == 0"
    for key in found_se out_of_time seconds cache_bytes steps bytes_per_step scout_bytes_per_step held_share; do
        [ -n "$(number $key $task cascade)" ] || fail "$task has no $key"
    done
    for policy in window heavy-hitter cascade; do
        holds "$task: $policy was asked" "$(number asked $task $policy) == 4 && $(number references $task $policy) == 4 * $parts"
    done
    holds "$task: cascade is right" "$(number right $task cascade) == 4 && $(number references_found $task cascade) == 4 * $parts"
    holds "$task: cascade is right" "$(number found $task cascade) == 1 && $(number found_se $task cascade) < 1e-9"
    holds "$task: window knows nothing" "$(number right $task window) == 0 && $(number found $task window) <= 0.1"
    holds "$task: dense is right, as far as it comes" "$(number right $task dense) == $(number asked $task dense) && $(number asked $task dense) >= 1"
    holds "$task: history does not tell" "$(number found $task heavy-hitter) <= 0.5"
    holds "$task: cascade reads little" "$(number bytes_per_step $task cascade) < 0.1 * $(number bytes_per_step $task dense)"
    prints "^$task: "
done
prints '^cascade  *4/4  *100.0 '

for task in constraint topic-shift sleeper; do
    case " $of_facts " in *" $task "*) ;; *) continue ;; esac
    holds "$task: cascade was right before" "$(number found_before $task cascade) == 1 && $(number steps $task cascade) > 256"
done
[ "$(number found_before needle cascade)" = null ] || fail "a needle has questions before it"

# The same seed gives the same answers on a node inside, which forgets each text before the next.
found=$(number found multi-query heavy-hitter)
fetched=$(number bytes_per_step multi-query cascade)
# shellcheck disable=SC2086
ends 0 $tasks --questions 4 --texts 1 --seed 3 --policies heavy-hitter,cascade --tasks multi-query --json "$dir/json" --ram 20MiB
[ "$(number found multi-query heavy-hitter)" = "$found" ] || fail "heavy-hitter found $found on two nodes, and $(number found multi-query heavy-hitter) inside"
[ "$(number bytes_per_step multi-query cascade)" = "$fetched" ] || fail "cascade fetched $fetched on two nodes, and $(number bytes_per_step multi-query cascade) inside"
[ -z "$(number right needle)" ] || fail "a task that was not asked for has results"

# A query that has turned teaches history what it never read.
for turn in 0 0.4; do
    # shellcheck disable=SC2086
    ends 0 $tasks --questions 4 --texts 1 --seed 3 --policies heavy-hitter --tasks sleeper --json "$dir/json" --refresh-turn $turn
    found=$(number found sleeper heavy-hitter)
    refreshes=$(number refreshes sleeper heavy-hitter)
    [ $turn = 0 ] && holds "without turns" "$found <= 0.5 && $refreshes == 0"
done
holds "history learned" "$found >= 0.75 && $refreshes > 0"

# What is protected is found by everybody, and the table says so.
# shellcheck disable=SC2086
ends 0 $tasks --questions 2 --texts 2 --policies window --tasks needle --json "$dir/json" --protect 0:4096
prints 'facts of all texts touch what --protect names'
holds "protected" "$(number right needle window) == 2 && $(number protected_facts needle) == 256"

# Input that cannot do.
ends 0 make-model random -o "$dir/random.gguf" --layers 2 --dim 64 --heads 4 --kv-heads 2 --ff 64
ends 1 eval tasks -m "$dir/random.gguf" --tokens 8192 --window 256
says 'scoutkv make-model recall -o'
# shellcheck disable=SC2086
{
    ends 1 $tasks --questions 4 --policies window --tasks needle --json "$dir/no/such"
    says 'cannot write'
    ends 1 $tasks --facts 1000
    says 'do not fit'
    ends 1 $tasks --questions 4000 --tasks multi-query
    says 'more --texts'
    ends 1 $tasks --questions 400 --tasks multi-query --policies window
    says 'in each of --texts'
    ends 2 $tasks --tasks needle,haystack
    says "there is no 'haystack'"
    ends 2 $tasks --questions 1
    says 'as many --questions'
    ends 2 $tasks --policies cascade,windw
    says 'windw'
}
ends 0 $tasks --questions 2 --policies window --tasks needle --budget 1024
says 'more than a quarter'

# Words that are counted: the whole text is the answer, and the tail stands for what is not read.
ends 0 make-model counting -o "$dir/counting.gguf"
prints 'llama, 2 layers, dim 544, 16 query and 8 KV heads of 64'
ends 0 run -m "$dir/counting.gguf" --temp 0 -p 'goose pond goose lamp, goose pond .... bread bread bread bread?'
prints '^ bread goose pond lamp$'
words="eval tasks -m $dir/counting.gguf --tokens 4096 --window 128 --prefill window --texts 1"
# shellcheck disable=SC2086
ends 0 $words --questions 2 --seed 4 --policies window,cascade,dense --dense-seconds 9 --tail --json "$dir/json"
prints 'tokens, 1 a task; 1 questions a task; budget 80 tokens'
holds "counts" "$(number answer_count common-words) == 30 && $(number other_count common-words) <= 4"
holds "counts" "$(number answer_count frequent-words) > 1.5 * $(number other_count frequent-words)"
for task in common-words frequent-words; do
    holds "$task: dense is right" "$(number right $task dense) == 1 && $(number asked $task dense) == 1"
    holds "$task: cascade with its tail is as good" "$(number found $task cascade) >= 0.95"
    holds "$task: window is not" "$(number found $task window) < 0.8"
    holds "$task: cascade reads little" "$(number bytes_per_step $task cascade) < 0.1 * $(number bytes_per_step $task dense)"
done
[ -z "$(number right needle)" ] || fail "a counting model was asked for facts"
# shellcheck disable=SC2086
{
    ends 1 $words --questions 2 --tasks needle
    says 'make-model recall -o'
    ends 1 $tasks --questions 2 --tasks common-words
    says 'make-model counting -o'
}
