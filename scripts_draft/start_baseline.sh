# The deterministic model alone, on all GPUs: 27 minutes on two. A hold has 30
rm -rf /tmp/tree; mkdir -p /tmp/tree; cp -r fwdiff_lite scripts_draft pyproject.toml checkpoints /tmp/tree/
. /tmp/tree/scripts_draft/env.sh
setsid bash /tmp/tree/scripts_draft/train_baseline.sh $1 > $L/train.log 2>&1 < /dev/null &
