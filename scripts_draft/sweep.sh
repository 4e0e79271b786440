# Validation scenes (seed 7000), 32 x 16, eta 1: one last time a GPU, two jobs each
rm -rf /tmp/tree; mkdir -p /tmp/tree; cp -r fwdiff_lite scripts_draft pyproject.toml checkpoints /tmp/tree/
. /tmp/tree/scripts_draft/env.sh
i=0
for t in ${TIMES:-0.35 0.5}; do
  T=/tmp/sweep_$t; rm -rf $T; cp -r /tmp/tree $T; mkdir -p $T/w; cp $T/scripts_draft/weights/* $T/w/
  sed -i "s/^LAST_TIME = .*/LAST_TIME = $t/" $T/fwdiff_lite/experiments/inverse_graphics/angles.py
  sed -i "s/seed: int = 2026/seed: int = 7000/" $T/fwdiff_lite/experiments/inverse_graphics/held_out.py
  grep -c "seed: int = 7000" $T/fwdiff_lite/experiments/inverse_graphics/held_out.py
  for job in 0 1; do
    (cd $T; PYTHONPATH=$T FWDIFF_ROOT=$T CUDA_VISIBLE_DEVICES=$i OMP_NUM_THREADS=6 TORCHINDUCTOR_CACHE_DIR=/tmp/inductor timeout ${LIMIT:-500} \
      $IG evaluate supersampled_maps_angles_eta_1 --jobs-per-gpu 2 --parts 4 --scenes ${SCENES:-32} $SWEEP_OPTIONS --out $T/w > $T/log_$job 2>&1) &
  done
  i=$((i + 1))
done
wait
tail -n 2 /tmp/sweep_*/log_*
python scripts_draft/show_sweep.py /tmp/sweep_*/log_*
cp /tmp/sweep_*/log_* $OUT 2>/dev/null; for t in ${TIMES:-0.35 0.5}; do cp /tmp/sweep_$t/w/evaluation_supersampled_maps_angles_eta_1.json $OUT/sweep_$t.json; done; true
