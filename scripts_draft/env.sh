# The settings of the other scripts. They run from a copy of the sources in /tmp/tree, and write to $W and $L.
export PYTHONPATH=/tmp/tree FWDIFF_ROOT=/tmp/tree PYTHONUNBUFFERED=1 TORCHINDUCTOR_CACHE_DIR=/tmp/inductor
export FWDIFF_COMMIT=$(cat /tmp/tree/scripts_draft/commit)
W=/tmp/weights; L=/tmp/logs; mkdir -p $W $L
IG="python -m fwdiff_lite.experiments inverse_graphics"
GAN="python -m fwdiff_lite.experiments gan_inversion"
GPUS=$(nvidia-smi -L 2>/dev/null | wc -l); GPUS=${FAKE_GPUS:-$GPUS}
PARTS=${PARTS:-32}
O="--jobs-per-gpu 2 --parts $PARTS $EVAL_OPTIONS --out $W"
