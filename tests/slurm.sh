#!/usr/bin/env bash
# A real Slurm of one node for the tests: munged, slurmctld and slurmd on this machine's loopback. Needs root, and
# apt-get install slurm-wlm munge.
#   eval "$(bash tests/slurm.sh start FOLDER)"   config, state and logs go to FOLDER; prints what jobs need to be set
#   bash tests/slurm.sh stop FOLDER
set -euo pipefail
[ $# = 2 ] || { sed -n '2,5p' "$0" >&2; exit 2; }
do=$1 root=$2
host=$(hostname -s)
export SLURM_CONF=$root/slurm.conf

within() { # within SECONDS COMMAND...: until the command succeeds
  local end=$(($(date +%s) + $1)); shift
  until "$@" >/dev/null 2>&1; do [ "$(date +%s)" -lt "$end" ] || { echo "waited in vain: $*" >&2; return 1; }; sleep 0.1; done
}
gone() { ! kill -0 "$1" 2>/dev/null || grep -q '^State:.Z' "/proc/$1/status"; }

if [ "$do" = stop ]; then
  scancel --user="$(id -un)" --signal=KILL 2>/dev/null || true
  for daemon in slurmctld slurmd; do
    [ -s "$root/$daemon.pid" ] || continue
    pid=$(cat "$root/$daemon.pid")
    kill "$pid" 2>/dev/null || true
    within 3 gone "$pid" 2>/dev/null || kill -KILL "$pid" 2>/dev/null || true # it waits for jobs that are ending
  done
  [ ! -s "$root/munged.pid" ] || kill "$(cat "$root/munged.pid")" 2>/dev/null || true
  exit 0
fi

[ "$(id -u)" = 0 ] || { echo "Slurm's daemons want root" >&2; exit 1; }
for needed in munged slurmctld slurmd; do command -v $needed >/dev/null || { echo "$needed is missing: apt-get install slurm-wlm munge" >&2; exit 1; }; done
mkdir -p "$root/state" "$root/spool" "$root/bin"

# The daemons bind to what the host's name means, so it has to mean 127.0.0.1, and no other loopback address: with
# 127.0.1.1, which Debian writes, srun waits for ever. The file is written in place, since a container mounts it.
if [ "$(getent ahostsv4 "$host" | awk 'NR == 1 { print $1 }')" != 127.0.0.1 ]; then
  hosts=$(cat /etc/hosts); printf '127.0.0.1 %s\n%s\n' "$host" "$hosts" > /etc/hosts
fi

if ! munge -n >/dev/null 2>&1; then # without systemd nobody has made its folder or started it
  install -d -o munge -g munge /run/munge
  [ -s /etc/munge/munge.key ] || { head -c 1024 /dev/urandom > /etc/munge/munge.key; chown munge: /etc/munge/munge.key; chmod 400 /etc/munge/munge.key; }
  chmod 711 "$root"
  runuser -u munge -- munged
  cp /run/munge/munged.pid "$root/munged.pid" 2>/dev/null || true
  within 10 munge -n
fi

# Less memory than there is: a node with less than it promised is drained. A requeued job comes back when its
# credential has expired (two minutes, if left alone), a preempted one gets the launcher's signal.
memory=$(awk '/MemTotal/ { print int($2 / 1024 * 0.8) }' /proc/meminfo)
cat > "$SLURM_CONF" <<CONF
ClusterName=tests
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
AuthInfo=cred_expire=5
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmctldPidFile=$root/slurmctld.pid
SlurmdPidFile=$root/slurmd.pid
SlurmctldLogFile=$root/slurmctld.log
SlurmdLogFile=$root/slurmd.log
StateSaveLocation=$root/state
SlurmdSpoolDir=$root/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0
KillWait=8
ReturnToService=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=${SLURMCTLD_PARAMETERS:-preempt_send_user_signal}
NodeName=$host NodeAddr=127.0.0.1 CPUs=${SLURM_TEST_CPUS:-2} RealMemory=$memory
PartitionName=main Nodes=$host Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=${SLURM_TEST_GRACE:-20}
PartitionName=urgent Nodes=$host PriorityTier=9 PreemptMode=OFF
CONF
slurmctld -i
within 20 scontrol ping
slurmd -N "$host"
within 20 sh -c "sinfo -h -p main -o %t | grep -qx idle"

# The launcher learns from sacct that a job has died, and sacct wants a database. This one knows what slurmctld does.
cat > "$root/bin/sacct" <<'SACCT'
#!/usr/bin/env python3
import re, subprocess, sys
words = sys.argv[1:]
print("JobID|State|NodeList")
for job in [words[i + 1] for i, word in enumerate(words) if word == "-j"]:
    said = subprocess.run(["scontrol", "--oneliner", "show", "job", job], capture_output=True, text=True).stdout
    for line in said.splitlines():
        known = dict(re.findall(r"(\w+)=(\S*)", line))
        name = known["JobId"]
        if "ArrayJobId" in known:
            task = known.get("ArrayTaskId", "")
            name = f"{known['ArrayJobId']}_{task if task.isdigit() else f'[{task}]'}"
        print(f"{name}|{known['JobState']}|{known.get('NodeList', '')}")
SACCT
chmod +x "$root/bin/sacct"
echo "export SLURM_CONF=$SLURM_CONF PATH=$root/bin:\$PATH"
