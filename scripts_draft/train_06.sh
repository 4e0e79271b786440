. /tmp/tree/scripts_draft/env.sh; cd /tmp/tree
CUDA_VISIBLE_DEVICES=$(seq -s, 0 $(($1 - 1))) OMP_NUM_THREADS=12 torchrun --standalone --nproc_per_node $1 -m fwdiff_lite.experiments \
  inverse_graphics train supersampled_deterministic ${TRAIN:---minutes $((54 / $1)) --batch-size $((128 * $1))} --out $W
for gpu in $(seq 0 $(($1 - 1))); do for job in 0 1; do
  CUDA_VISIBLE_DEVICES=$gpu OMP_NUM_THREADS=6 setsid bash scripts_draft/evaluate_06.sh > $L/evaluate_$gpu$job.log 2>&1 < /dev/null &
done; done
wait
