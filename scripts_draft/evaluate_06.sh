. /tmp/tree/scripts_draft/env.sh; cd /tmp/tree
$IG evaluate supersampled_maps_angles_eta_1 ceiling supersampled_view_space_angles_eta_1 $O
[ -e $W/supersampled_deterministic.safetensors ] && $IG evaluate supersampled_deterministic_angles $O
mkdir $W/orbit_begun 2>/dev/null && $IG evaluate orbit reference $EVAL_OPTIONS --out $W
$IG evaluate supersampled_maps_angles_eta_0 $O
if [ $GPUS -gt 2 ]; then
  until [ -e $W/supersampled_deterministic.safetensors ]; do sleep 2; done
  $IG evaluate supersampled_deterministic_angles $O
fi
touch $W/done_$CUDA_VISIBLE_DEVICES.$$
