#!/usr/bin/env bash
# Everything that docs/results.md says about learning DeepSea, the smallest seas first. It takes hours; interrupted, it
# goes on where it stood.
#
#     benchmarks/deep_sea_campaign.sh benchmarks/results [JOBS]
set -euo pipefail
folder=$1
jobs=${2:-1}

deepsea() {
  hyperact bench deepsea --jobs "$jobs" --results "$folder/deep_sea.csv" "$@" > /dev/null
}

# The same for everyone: half a learner step for each new transition, and 2,500 before each deployment at least.
deployments() {
  hyperact bench deployments --jobs "$jobs" --results "$folder/deployments.csv" --max-deployments 25 \
    --learner '{"compile": "on", "replay_ratio": 0.5}' --min-learner-steps 2500 "$@" > /dev/null
}

fast() {
  deepsea --variants fast --learner '{"compile": "on"}' "$@"
}

ten=0,1,2,3,4,5,6,7,8,9
five=0,1,2,3,4

deepsea --variants hyperagent --sizes 20 --seeds $ten
deepsea --variants hyperagent --sizes 30 --seeds $five
deepsea --variants ddqn,ensemble_plus,ensemble_plus_16,hypermodel --sizes 20 --seeds 0,1,2 --max-episodes 2000
deepsea --variants hyperagent_ois --sizes 20,30 --seeds $five
deepsea --variants hyperagent,hyperagent_ois --sizes 40,50 --seeds $five
deepsea --variants enn_dqn --sizes 20,40 --seeds 0,1 --max-episodes 4000
deepsea --variants hyperdqn --sizes 20,60 --seeds 0,1 --max-episodes 5000
deepsea --variants hyperagent --sizes 70,100 --seeds 0,1
deepsea --variants hyperagent --sizes 120 --seeds 0
fast --sizes 20,30,40,50 --seeds $five
fast --sizes 70,100 --seeds 0,1
deployments --variants fast_batch,ddqn,ensemble_plus --sizes 10,20,30 --seeds 0,1,2 --episodes-per-deployment 20,100,500
deployments --variants fast_batch,ddqn,ensemble_plus --sizes 50 --seeds 0,1 --episodes-per-deployment 20,100,500
