#!/bin/sh
# Damaged conversations with the node's core, from fixed seeds.
exec "$BUILD/tests/fuzz/fuzz_node" 1000 1
