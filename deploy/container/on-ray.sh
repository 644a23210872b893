#!/bin/sh
# Joins a Ray cluster with a machine that offers it nothing, and runs a command there: a web process, or ray-deploy.
#   on-ray.sh HEAD:PORT COMMAND [ARGUMENTS]
set -e
head=$1
shift
# What runs on this machine for the cluster inherits the environment of `ray start`. The keys and the address of the database are
# for the command.
(
    # shellcheck disable=SC2046
    unset $(env | sed -n 's/^\(MLLAMA_DEMO_[A-Z0-9_]*\)=.*/\1/p')
    exec ray start --address "$head" --num-cpus 0 --num-gpus 0 --object-store-memory 268435456 --disable-usage-stats
)
exec "$@"
