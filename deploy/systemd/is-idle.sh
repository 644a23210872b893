#!/bin/sh
# Ends with exit code 0 when nobody has asked the demo anything for so many seconds, else with 1. A demo that does not answer counts
# as in use: it may be compiling, or broken, and a person should look at it.
#   is-idle.sh [SECONDS [ADDRESS]]
seconds=${1:-3600}
address=${2:-http://127.0.0.1:7860/metrics}
metrics=$(curl -fsS --max-time 10 "$address") || exit 1
printf '%s\n' "$metrics" |
    awk -v limit="$seconds" '/^mllama_demo_idle_seconds/ { idle = $NF } END { exit !(idle + 0 > limit + 0) }'
