#!/bin/bash
# A run of distsgd on a private Ray, for Slurm: `sbatch` with this file. The nodes share the run directory's folder.
#SBATCH --job-name=distsgd-mnist-b52e1f1c6f
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=2
#SBATCH --mem=4096M
#SBATCH --time=60
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output="/shared/runs/distsgd-mnist-b52e1f1c6f-%j.log"
set -euo pipefail
umask 077

python=python
runs=/shared/runs
export DISTSGD_SUBMIT='distsgd submit jobs/mnist.toml --data /shared/mnist/train.parquet --val /shared/mnist/test.parquet --run-dir /shared/runs/mnist --to slurm'

# Ray's token is the only thing that keeps other users of these nodes out. It is a file, and not in the environment of
# `srun`, because Slurm sends that over the network.
mkdir -p "$runs"
token=$(mktemp "$runs/.ray-token-$SLURM_JOB_ID-XXXXXX")
od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$token"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$token" RAY_USAGE_STATS_ENABLED=0
unset RAY_ADDRESS RAY_AUTH_TOKEN

# Ray's files are in a folder that only this user can enter: Ray opens its own to everybody.
node='dir=$1; shift; mkdir -m 700 "$dir" 2>/dev/null || { [ -O "$dir" ] && [ ! -L "$dir" ]; } || exit 1; "$@"'
scratch=/tmp/distsgd-$SLURM_JOB_ID
on_node() {  # NODE COMMAND...: runs a command on a node until the script ends
    local host=$1
    shift
    srun --nodes=1 --ntasks=1 --nodelist="$host" --overlap --export=ALL --kill-on-bad-exit=1 \
        bash -c "$node" bash "$scratch" "$@" &
    ray+=("$!")
}

driver="" why="" ray=() hosts=()
ended() {
    [ "${#ray[@]}" -eq 0 ] || kill -TERM "${ray[@]}" 2>/dev/null || true
    wait || true
    for host in "${hosts[@]}"; do  # Slurm may have killed the steps before they could tidy up
        srun --nodes=1 --ntasks=1 --nodelist="$host" --overlap rm -rf "$scratch" || true
    done
    rm -f "$token"
}
trap ended EXIT
# Slurm sends USR1 some time before the job's time is over, and TERM if the job is cancelled.
trap 'why=time; [ -z "$driver" ] || kill -TERM "$driver" 2>/dev/null || true' USR1
trap 'why=cancelled; [ -z "$driver" ] || kill -TERM "$driver" 2>/dev/null || true' TERM INT

mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
ip=$(srun --nodes=1 --ntasks=1 --nodelist="${hosts[0]}" --overlap hostname --ip-address)
address=${ip%% *}:$((20000 + SLURM_JOB_ID % 10000))
common=(--block --disable-usage-stats --temp-dir="$scratch/r" --num-cpus="$SLURM_CPUS_PER_TASK")
on_node "${hosts[0]}" "$python" -m ray.scripts.scripts start --head --node-ip-address="${address%:*}" \
    --port="${address##*:}" --include-dashboard=false "${common[@]}"
for host in "${hosts[@]:1}"; do
    on_node "$host" "$python" -m ray.scripts.scripts start --address="$address" "${common[@]}"
done
"$python" -m distsgd.cli await-nodes "$address" "${#hosts[@]}"

"$python" -m distsgd.cli train --set data.classes=10 --set data.label=label --set data.normalize=unit --set data.train=/shared/mnist/train.parquet --set data.val=/shared/mnist/test.parquet --set model.hidden=256 --set optim.l2=1e-05 --set optim.lr=0.1 --set optim.momentum=0.9 --set optim.schedule=cosine --set optim.warmup_steps=200 --set train.batch_size=128 --set train.epochs=10 --run-dir /shared/runs/mnist --resume-or-start \
    --address "$address" &
driver=$!
[ -z "$why" ] || kill -TERM "$driver" 2>/dev/null || true
status=0
while :; do  # a signal ends `wait`, but not the driver
    wait "$driver" && status=0 || status=$?
    kill -0 "$driver" 2>/dev/null || break
done
wait "$driver" && status=0 || status=$?

if [ "$why" = time ] && [ "$status" -eq 143 ]; then
    echo "out of time; the run is checkpointed, and the job is queued again"
    ended
    trap - EXIT
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
