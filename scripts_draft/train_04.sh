. /tmp/tree/scripts_draft/env.sh; cd /tmp/tree
$GAN train $1 ${TRAIN:---minutes 21 --batch-size 512 --portraits 1048576} --jobs-per-gpu $2 --out $W
[ $1 = wplus ] && $GAN evaluate temperature_wplus $EVAL_OPTIONS --out $W
touch $W/done_$1
