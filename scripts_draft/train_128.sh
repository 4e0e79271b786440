. /tmp/tree/scripts_draft/env.sh; cd /tmp/tree
OMP_NUM_THREADS=12 torchrun --standalone --nproc_per_node $GPUS -m fwdiff_lite.experiments inverse_graphics \
  train supersampled_maps_128 --minutes $1 $TRAIN --init-from $W/supersampled_maps.safetensors --out $W
for gpu in $(seq 0 $((GPUS - 1))); do for job in 0 1; do
  (CUDA_VISIBLE_DEVICES=$gpu OMP_NUM_THREADS=6 $IG evaluate supersampled_maps_128_angles_eta_1 --scenes ${SCENES:-64} --jobs-per-gpu 2 \
    --parts 16 $EVAL_OPTIONS --out $W > $L/evaluate_$gpu$job.log 2>&1; touch $W/done_$gpu$job) &
done; done
wait
