# All GPUs but the last train supersampled_deterministic for 54 GPU-minutes in all; the last one evaluates. Then all
# evaluate. On one or two GPUs: the evaluations that need no deterministic model. $W needs the weights of supersampled_maps and
# of supersampled_view_space.
rm -rf /tmp/tree; mkdir -p /tmp/tree; cp -r fwdiff_lite scripts_draft pyproject.toml checkpoints /tmp/tree/; cd /tmp/tree
. scripts_draft/env.sh
cp scripts_draft/weights/* $W/
n=$((GPUS > 2 ? GPUS - 1 : 0))
for gpu in $(seq $n $((GPUS - 1))); do for job in 0 1; do
  CUDA_VISIBLE_DEVICES=$gpu OMP_NUM_THREADS=6 setsid bash scripts_draft/evaluate_06.sh > $L/evaluate_$gpu$job.log 2>&1 < /dev/null &
done; done
[ $n = 0 ] || setsid bash scripts_draft/train_06.sh $n > $L/train.log 2>&1 < /dev/null &
