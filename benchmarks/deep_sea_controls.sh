#!/usr/bin/env bash
# HyperAgent on DeepSea-20 with one of its parts taken away or changed at a time, up to 1,000 episodes each. Some fifteen
# minutes of one core; interrupted, it goes on where it stood.
#
#     benchmarks/deep_sea_controls.sh benchmarks/results [JOBS]
set -euo pipefail
folder=$1
jobs=${2:-1}

deepsea() {
  hyperact bench deepsea --sizes 20 --seeds 0,1,2 --max-episodes 1000 --jobs "$jobs" \
    --results "$folder/deep_sea_controls.csv" "$@" > /dev/null
}

# Must fail: no uncertainty at all, random actions in its place, no prior.
deepsea --variants ddqn_greedy,ddqn --learner '{"compile": "on"}'
deepsea --variants hyperagent --learner '{"compile": "on", "network": {"prior_scale": 0}}'
# Beside them: as published, without perturbation, targets under the loss's own indices.
deepsea --variants hyperagent --learner '{"compile": "on"}'
deepsea --variants hyperagent --learner '{"compile": "on", "perturbation_scale": 0}'
deepsea --variants hyperagent_sampled --learner '{"compile": "on", "target_index": "dependent"}'
