#!/usr/bin/env bash
# The main job on a small scale: tblite labels, killed with SIGKILL on the way, resumed, reported.
set -euo pipefail
run=$1
ideal-run check examples/quick/config.yaml
ideal-run run examples/quick/config.yaml --output "$run" &
pid=$!
for _ in $(seq 600); do
    grep -q '"updated"' "$run/events.jsonl" 2>/dev/null && break
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.2
done
kill -KILL "$pid" 2>/dev/null || true
wait "$pid" 2>/dev/null || true
ideal-run resume "$run"
ideal-run status "$run"
ideal-run report "$run"
test -s "$run/report.html"
