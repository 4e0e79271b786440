# Four trainings of GAN inversion, one on each GPU, two on each of two GPUs; on one GPU the main model alone. $W needs
# generator and classifier, as .safetensors and .json.
rm -rf /tmp/tree; mkdir -p /tmp/tree; cp -r fwdiff_lite scripts_draft pyproject.toml checkpoints /tmp/tree/; cd /tmp/tree
. scripts_draft/env.sh
cp scripts_draft/weights/* $W/
i=0; jobs=$(( (3 + GPUS) / GPUS )); names="wplus deterministic w wplus_faint"; [ $GPUS = 1 ] && names=wplus jobs=1
for name in $names; do
  gpu=$((i % GPUS)); i=$((i + 1))
  CUDA_VISIBLE_DEVICES=$gpu OMP_NUM_THREADS=8 setsid bash scripts_draft/train_04.sh $name $jobs > $L/train_$name.log 2>&1 < /dev/null &
done
