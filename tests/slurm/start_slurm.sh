#!/usr/bin/env bash
# Start a throw-away Slurm cluster (munged + slurmctld + N slurmd "nodes") on this one machine. Jobs in the partition
# `debug` pre-empt those in `spare`, which have two minutes' grace.
# No systemd, no cgroups; writes only under $SLURM_LAB (netns also adds a bridge, veths and named namespaces that
# stop_slurm.sh takes away, all called slurmlabN*: N is the first that is free, as another lab may run on this machine,
# or have been killed).  Needs root and
#   apt-get update && apt-get install -y --no-install-recommends slurmctld slurmd slurm-client munge
# Use:   ./start_slurm.sh && export SLURM_CONF=/tmp/slurm-lab/slurm.conf && sinfo        ./stop_slurm.sh ends it
# Net:   SLURM_LAB_NET=lo     nodes share the host's network: node1=127.0.0.11, node2=127.0.0.12 (default)
#        SLURM_LAB_NET=netns  each node has its own network namespace (10.213.N.11, .12 on a bridge), so a
#                             rank that dials localhost or the wrong node's name fails as on real nodes
# Each slurmd, and so its jobs, has a private /etc/hosts (mount namespace) and hostname (uts namespace).
set -euo pipefail
LAB=${SLURM_LAB:-/tmp/slurm-lab}   # everything lives here
NET=${SLURM_LAB_NET:-lo}                   # lo | netns
NODES=${SLURM_LAB_NODES:-2}                # how many slurmd (1-99)
CPUS=${SLURM_LAB_CPUS:-4}                  # cores each node claims (config_overrides: may exceed the machine's)
MEM=${SLURM_LAB_MEM:-4096}                 # MiB each node claims
GPUS=${SLURM_LAB_GPUS:-2}                  # fake gres/gpu per node; 0 for none
PORT=${SLURM_LAB_PORT:-17817}              # slurmctld, netns: +100 N; slurmd i listens on the i-th after it
WAIT=${SLURM_LAB_WAIT:-120}                # seconds to wait until every node is idle
CRED=${SLURM_LAB_CRED_EXPIRE:-10}          # seconds a requeued job waits before it may start again (Slurm's default: 120)
PATH=$PATH:/usr/sbin:/sbin
[ "$(id -u)" = 0 ] || { echo "must be root" >&2; exit 1; }
for t in munged slurmctld slurmd sinfo unshare nsenter ip; do
  command -v $t >/dev/null || { echo "missing command: $t" >&2; exit 1; }
done
for p in "$LAB"/run/*.pid; do
  [ -e "$p" ] && grep -qxE 'munged|slurmctld|slurmd' "/proc/$(cat "$p")/comm" 2>/dev/null && { echo "already running: $p" >&2; exit 1; }
done
t0=$(date +%s.%N)
rm -rf "$LAB/run" "$LAB/state" "$LAB/spool" "$LAB/log" "$LAB/fakegpu"
mkdir -p "$LAB"/{run,state,spool,log,fakegpu}
chmod 755 "$LAB" "$LAB/run"; chmod 700 "$LAB/state"
HOST=$(hostname -s)

case $NET in
  lo)    CTL=127.0.0.1;  addr() { echo "127.0.0.$((10 + $1))"; } ;;
  netns) N=0
         while ip link show "slurmlab$N" >/dev/null 2>&1 || ! ip link add "slurmlab$N" type bridge; do
           [ $((N += 1)) -lt 100 ] || { echo "no free name among slurmlab0 to 99: ip link del those left over" >&2; exit 1; }
         done
         NAME=slurmlab$N; echo "$NAME" > "$LAB/run/name"
         PORT=$((PORT + 100 * N)); CTL=10.213.$N.1; addr() { echo "10.213.$N.$((10 + $1))"; }
         ip addr add "$CTL/24" dev "$NAME"; ip link set "$NAME" up ;;
  *)     echo "SLURM_LAB_NET=$NET?" >&2; exit 1 ;;
esac

# --- files
{ echo "127.0.0.1 localhost"; [ $NET = lo ] || echo "$CTL $HOST"; [ $NET = netns ] || echo "127.0.0.1 $HOST"
  for i in $(seq "$NODES"); do echo "$(addr $i) node$i"; done; } > "$LAB/hosts"
( umask 077; rm -f "$LAB/munge.key"; head -c 1024 /dev/urandom > "$LAB/munge.key" )
cat > "$LAB/slurm.conf" <<CONF
ClusterName=lab
SlurmctldHost=$HOST($CTL)
SlurmctldPort=$PORT
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$LAB/run/munge.socket,cred_expire=$CRED
CredType=cred/munge
StateSaveLocation=$LAB/state
SlurmdSpoolDir=$LAB/spool/%n
SlurmctldPidFile=$LAB/run/slurmctld.pid
SlurmdPidFile=$LAB/run/slurmd-%n.pid
SlurmctldLogFile=$LAB/log/slurmctld.log
SlurmdLogFile=$LAB/log/slurmd-%n.log
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc=$LAB/log/jobcomp.log
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
# quick reactions: this is a test bed
SchedulerParameters=sched_interval=5,bf_interval=5,batch_sched_delay=0
SlurmdParameters=config_overrides
ReturnToService=2
PropagateResourceLimits=NONE
JobRequeue=1
KillWait=10
MinJobAge=600
SlurmctldTimeout=60
SlurmdTimeout=60
MessageTimeout=60
TCPTimeout=10
BatchStartTimeout=60
CONF
[ "$GPUS" -gt 0 ] && echo "GresTypes=gpu" >> "$LAB/slurm.conf"
for i in $(seq "$NODES"); do
  g=; [ "$GPUS" -gt 0 ] && g=" Gres=gpu:$GPUS"
  echo "NodeName=node$i NodeHostname=$HOST NodeAddr=$(addr $i) Port=$((PORT + i)) CPUs=$CPUS Boards=1 SocketsPerBoard=1 CoresPerSocket=$CPUS ThreadsPerCore=1 RealMemory=$MEM$g State=UNKNOWN"
done >> "$LAB/slurm.conf"
echo "PartitionName=debug Nodes=ALL Default=YES PriorityTier=2 PreemptMode=OFF MaxTime=INFINITE State=UP
PartitionName=spare Nodes=ALL PriorityTier=1 PreemptMode=REQUEUE GraceTime=120 MaxTime=INFINITE State=UP" >> "$LAB/slurm.conf"
: > "$LAB/gres.conf"
if [ "$GPUS" -gt 0 ]; then   # copies of /dev/null: slurmd wants a device file before it sets CUDA_VISIBLE_DEVICES
  for i in $(seq 0 $((GPUS - 1))); do
    mknod "$LAB/fakegpu/nvidia$i" c 1 3
    echo "Name=gpu File=$LAB/fakegpu/nvidia$i" >> "$LAB/gres.conf"
  done
fi
# no cgroup plugin is configured, so this only keeps a daemon from falling back to autodetection
printf 'CgroupPlugin=cgroup/v1\nCgroupAutomount=no\nConstrainCores=no\nConstrainRAMSpace=no\nConstrainDevices=no\n' > "$LAB/cgroup.conf"

# --- daemons
export SLURM_CONF=$LAB/slurm.conf
cd "$LAB"
munged --key-file="$LAB/munge.key" --socket="$LAB/run/munge.socket" --pid-file="$LAB/run/munged.pid" \
       --log-file="$LAB/log/munged.log" --seed-file="$LAB/run/munge.seed" --num-threads=2
slurmctld -c -f "$SLURM_CONF"
for i in $(seq "$NODES"); do
  mkdir -p "$LAB/spool/node$i"
  enter=
  if [ $NET = netns ]; then
    ns=$NAME-node$i
    ip netns add $ns
    ip link add "$NAME-v$i" type veth peer name eth0 netns $ns
    ip link set "$NAME-v$i" master "$NAME" up
    ip -n $ns link set lo up
    ip -n $ns addr add "$(addr $i)/24" dev eth0
    ip -n $ns link set eth0 up
    enter="nsenter --net=/run/netns/$ns"
  fi
  $enter unshare --mount --uts --propagation private \
    sh -c "mount --bind '$LAB/hosts' /etc/hosts && hostname node$i && exec slurmd -N node$i -f '$SLURM_CONF'"
done

# --- wait: exactly 'idle' ('idle*' is a node that has not answered)
end=$((SECONDS + WAIT))
until [ "$(sinfo -h -N -p debug -o '%N %T' 2>/dev/null | grep -c ' idle$')" = "$NODES" ]; do
  [ $SECONDS -lt $end ] || { echo "nodes not idle after ${WAIT}s" >&2; sinfo -N -l >&2 || true; tail -n 20 "$LAB"/log/*.log >&2; exit 1; }
  sleep 0.2
done
echo "slurm up: $NODES nodes ($NET) in $(awk "BEGIN{print $(date +%s.%N)-$t0}") s"
echo "export SLURM_CONF=$SLURM_CONF"
