#!/bin/sh
# scoutkv bench decode: a small run; the figures fit together; mistakes.
. "$(dirname "$0")/cli_common"

"$scoutkv" make-model random -o "$dir/m.gguf" --type Q8_0 --layers 2 --dim 64 --heads 4 --kv-heads 2 --ff 128 \
    --vocab 300 >/dev/null || fail "no model"
ends 0 bench decode -m "$dir/m.gguf" --steps 4 --rounds 2 --threads 2 --json
awk '
    /^ *"[a-z_]*":/ { gsub(/[",:]/, ""); v[$1] = $2 }
    END {
        # two layers (q, o: 64 by 64; k, v: 32; gate, up, down: 128) and the output, 34 bytes for 32 weights
        want = (2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 128 * 64) + 300 * 64) / 32 * 34
        if (v["weight_bytes"] != want) { print "weights " v["weight_bytes"] ", not " want; exit 1 }
        if (!(v["tokens_per_second"] > 0 && v["read_gbps"] > 0 && v["share"] > 0)) { print "no figures"; exit 1 }
        if (v["threads"] != 2 || v["steps"] != 4 || v["rounds"] != 2) { print "not what was asked for"; exit 1 }
    }' "$dir/out" >&2 || fail "the figures do not fit together"
ends 0 bench decode -m "$dir/m.gguf" --steps 2 --rounds 1 --threads 1
prints 'tokens a second'
prints '^2 tokens decoded behind 64, dense, threads: 1 '
ends 2 bench decode
says 'model'
ends 2 bench decode -m "$dir/m.gguf" --steps 0
ends 1 bench decode -m "$dir/nothing.gguf"
