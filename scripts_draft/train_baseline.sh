# train_baseline.sh [MINUTES]: trains the deterministic model on all GPUs, by default for 54 GPU-minutes in all
. /tmp/tree/scripts_draft/env.sh; cd /tmp/tree
OMP_NUM_THREADS=12 exec torchrun --standalone --nproc_per_node $GPUS -m fwdiff_lite.experiments inverse_graphics \
  train supersampled_deterministic --minutes ${1:-$(python3 -c "print(54 / $GPUS)")} --batch-size ${BATCH:-384} --out $W
