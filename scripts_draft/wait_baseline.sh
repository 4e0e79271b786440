# wait_baseline.sh SECONDS [stop]: waits for the model. With "stop", a training that is not over by then is interrupted, and
# the same command with a budget that is spent writes the averaged weights and the record.
. /tmp/tree/scripts_draft/env.sh
M=$W/supersampled_deterministic; end=$(( $(date +%s) + $1 )); k=0
while [ $(date +%s) -lt $end ] && [ ! -e $M.json ]; do
  sleep 3; k=$((k + 1))
  [ $((k % 30)) = 1 ] && echo "== $(date +%T) $(nvidia-smi --query-gpu=utilization.gpu --format=csv,noheader 2>/dev/null | tr '\n' ' ') $(tail -c 300 $L/train.log | tr '\r' '\n' | tail -n 1)"
done
if [ ! -e $M.json ] && [ "$2" = stop ]; then
  pkill -TERM -f nproc_per_node; while pgrep -f nproc_per_node > /dev/null; do sleep 0.5; done
  bash /tmp/tree/scripts_draft/train_baseline.sh 0.01
fi
sleep 2; cp $M.safetensors $M.json $L/train.log $OUT/; ls -la $OUT; tail -n 3 $L/train.log | cut -c1-300
