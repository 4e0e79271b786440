# wait.sh SECONDS [JOBS]: shows the logs, ends when so many evaluations are done, and copies what is finished to $OUT
. /tmp/tree/scripts_draft/env.sh
end=$(( $(date +%s) + $1 )); k=0; jobs=${2:-$((2 * GPUS))}
while [ $(date +%s) -lt $end ]; do
  sleep 5; k=$((k + 1))
  if [ $((k % 18)) = 1 ]; then
    echo "== $(date +%T) $(nvidia-smi --query-gpu=utilization.gpu,memory.used --format=csv,noheader 2>/dev/null | tr '\n' ';') parts: $(ls $W | grep -c 'part_.*json')"
    for f in $L/*.log; do [ -e $f ] && echo "$(basename $f): $(tail -n 1 $f | cut -c1-170)"; done
  fi
  [ $(ls $W | grep -c '^done_') -ge $jobs ] && break
done
for x in $W/*.safetensors; do n=$(basename $x); [ -e /tmp/tree/scripts_draft/weights/$n ] || cp $x $OUT/; done
rm -rf /tmp/pack; mkdir -p /tmp/pack; cp $W/evaluation_* $W/*.json $L/*.log /tmp/pack/ 2>/dev/null
tar czf - -C /tmp/pack . | split -b 15M - $OUT/records.tgz.
ls -la $OUT; grep -i -h "error" $L/*.log | sort | uniq -c | head
