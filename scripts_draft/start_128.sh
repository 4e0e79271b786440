# supersampled_maps at 128 x 128 pixels, from the weights at 64 x 64: trained on all GPUs for MINUTES (16), then evaluated on 64
# scenes by two jobs a GPU. $W needs the weights of supersampled_maps.
rm -rf /tmp/tree; mkdir -p /tmp/tree; cp -r fwdiff_lite scripts_draft pyproject.toml checkpoints /tmp/tree/
. /tmp/tree/scripts_draft/env.sh
cp scripts_draft/weights/* $W/
setsid bash /tmp/tree/scripts_draft/train_128.sh ${MINUTES:-16} > $L/train_128.log 2>&1 < /dev/null &
