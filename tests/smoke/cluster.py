"""A cluster of virtual nodes on this machine: Slurm, sshd, a network with cables to pull. Linux, root only.

    login   10.77.0.1    munged, slurmctld, the bridge that the cables meet in
      n1    10.77.0.11   slurmd, sshd
      n2    10.77.0.12   slurmd, sshd

Every box is a set of namespaces: network, host name, processes, shared memory, mounts; the files are this machine's.
All nodes live inside `login`, whose first process ends when its stdin is closed: by `close`, or by the kernel when the
tests are killed. With it go all processes, networks and mounts, so nothing stays behind and two clusters never meet.
"""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

PROGRAMS = (
    "ip",
    "unshare",
    "nsenter",
    "munged",
    "slurmctld",
    "slurmd",
    "sshd",
    "ssh-keygen",
    "pdsh",
)
SEARCHED = f"{os.environ['PATH']}:/usr/sbin:/sbin"
NAMESPACES = ("--mount", "--uts", "--ipc", "--net", "--pid")

# Ends with its stdin. /run is its own, for sockets; the names of the nodes are known here and nowhere else.
LOGIN = """
hostname login && ip link set lo up && mount -t tmpfs -o mode=755 tmpfs /run && mkdir /run/munge /run/sshd
mount --bind "$0/hosts" /etc/hosts && mount --bind "$0/ssh_config" /etc/ssh/ssh_config
ip link add br0 type bridge && ip addr add 10.77.0.1/24 dev br0 && ip link set br0 up
dd if=/dev/urandom of=/run/munge/key bs=32 count=1 status=none && chmod 600 /run/munge/key
munged --key-file=/run/munge/key --seed-file=/run/munge/seed --log-file=/run/munge/log --pid-file=/run/munge/pid
slurmctld -D >"$0/log/slurmctld.out" 2>&1 &
touch "$0/up" && cat >/dev/null
"""
# The cable arrives from outside. `-b`: a node that comes back has lost its jobs.
NODE = """
hostname "$1" && ip link set lo up && mount -t tmpfs -o mode=1777 tmpfs /dev/shm
until ip link set eth0 up 2>/dev/null; do sleep 0.02; done; ip addr add "$2/24" dev eth0
/usr/sbin/sshd -f "$0/sshd_config" -E "$0/log/sshd-$1.log"
slurmd -D -b -N "$1" >"$0/log/slurmd-$1.out" 2>&1 & wait
"""
SLURM = """
ClusterName=test
SlurmctldHost=login(10.77.0.1)
SlurmUser=root
AuthType=auth/munge
CredType=cred/munge
# How long a requeued job waits: 120 s unless told, 5 is the least that is taken.
AuthInfo=cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
TmpFS={folder}/tmp/%n
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd-%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MailProg=/bin/true
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=2,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
SlurmdTimeout=10
TCPTimeout=2
MessageTimeout=10
# From SIGTERM to SIGKILL; srun waits as long for the ranks of a lost node.
KillWait=3
MinJobAge=600
PropagateResourceLimits=NONE
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=DEFAULT CPUs=2 RealMemory=4000 Gres=gpu:2
{nodes}
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=10
PartitionName=scavenge Nodes=ALL MaxTime=INFINITE PriorityTier=1 GraceTime=30
"""
SSHD = """
HostKey {folder}/key
AuthorizedKeysFile {folder}/key.pub
PasswordAuthentication no
UsePAM no
StrictModes no
UseDNS no
PidFile none
"""
SSH = """
IdentityFile {folder}/key
StrictHostKeyChecking no
UserKnownHostsFile /dev/null
LogLevel ERROR
"""


def why_not() -> str:
    """Why there can be no cluster on this machine; empty where there can."""
    if os.geteuid() != 0:
        return "a cluster of namespaces needs root"
    missing = [name for name in PROGRAMS if shutil.which(name, path=SEARCHED) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (.ci/run installs them on Debian and Ubuntu)"
    tried = subprocess.run(
        ["unshare", *NAMESPACES, "--fork", "true"], capture_output=True, text=True
    )
    return f"no namespaces here: {tried.stderr.strip()}" if tried.returncode else ""


def wait_until(true: Callable[[], bool], seconds: float, what: str) -> None:
    """Poll; `what` is said when the time is up. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.02)


class Cluster:
    """`login` and some nodes: n1, n2, ..."""

    def __init__(self, folder: Path, nodes: int = 2) -> None:
        """folder: configuration, keys and the daemons' logs."""
        self.folder = folder
        self.nodes = {f"n{number}": f"10.77.0.{10 + number}" for number in range(1, nodes + 1)}
        self.environment = os.environ | {"PATH": SEARCHED, "SLURM_CONF": f"{folder}/slurm.conf"}
        self._boxes: dict[str, subprocess.Popen[bytes]] = {}
        self._first: dict[str, int] = {}  # box -> its first process, as this machine numbers it

    def start(self) -> None:
        """Switch everything on. Raises TimeoutError: it does not come up."""
        try:
            self._write_files()
            self._start("login", [], LOGIN)
            wait_until((self.folder / "up").exists, 10, "login is up")
            for node in self.nodes:
                self.boot(node)
            wait_until(self._is_idle, 30, "Slurm reports all nodes idle")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End everything."""
        for box in reversed(self._boxes.values()):
            if box.stdin:
                box.stdin.close()
        if "login" in self._first:
            _kill(self._first["login"])
        for box in self._boxes.values():
            box.wait()

    def boot(self, node: str) -> None:
        """Switch a node on."""
        self._start(node, self._entered("login"), NODE, node, self.nodes[node])
        cable = f"ip link add {node} type veth peer name eth0 netns {self._first[node]}"
        plugged = f"ip link set {node} master br0 up"
        outside = ["nsenter", f"--net=/proc/{self._first['login']}/ns/net", "sh", "-c"]
        wait_until(
            lambda: subprocess.run([*outside, f"{cable} && {plugged}"]).returncode == 0,
            5,
            f"the cable of {node}",
        )

    def power_cut(self, node: str) -> None:
        """Every process of a node dies, and none can say goodbye."""
        self.must("login", "ip", "link", "del", node)
        _kill(self._first.pop(node))
        self._boxes.pop(node).wait()

    def cut(self, node: str) -> None:
        """Pull the network cable."""
        self.must("login", "ip", "link", "set", node, "down")

    def plug(self, node: str) -> None:
        """Put the cable in again."""
        self.must("login", "ip", "link", "set", node, "up")

    def command(self, box: str, *words: str) -> list[str]:
        """`words` as if logged in on `box`, in the same directory; to be run with `self.environment`."""
        return [*self._entered(box), "sh", "-c", 'cd "$0" && exec "$@"', str(Path.cwd()), *words]

    def run(self, box: str, *words: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a command on `box` and wait for it."""
        command, environment = self.command(box, *words), self.environment
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=timeout
        )

    def must(self, box: str, *words: str) -> str:
        """What a command on `box` prints; it has to end with 0."""
        done = self.run(box, *words)
        assert done.returncode == 0, (
            f"{box}: {' '.join(words)}: status {done.returncode}: {done.stderr}"
        )
        return done.stdout

    def job(self, number: str) -> list[dict[str, str]]:
        """What `scontrol show job` says; of an array, a row for each element in order, one for all that never start."""
        said = self.must("login", "scontrol", "--oneliner", "show", "job", number)
        rows = [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in said.splitlines()]
        return sorted(rows, key=lambda row: int(re.split(r"\D", row.get("ArrayTaskId", "1"))[0]))

    def _start(self, box: str, inside: list[str], script: str, *arguments: str) -> None:
        unshare = ["unshare", *NAMESPACES, "--fork", "--kill-child", "--mount-proc"]
        self._boxes[box] = subprocess.Popen(
            [*inside, *unshare, "sh", "-c", script, str(self.folder), *arguments],
            env=self.environment,
            stdin=subprocess.PIPE,
            stderr=(self.folder / f"log/{box}.out").open("a"),
            start_new_session=True,
        )
        # nsenter, if there is one, then unshare, then the box's first process
        depth = 2 if inside else 1
        wait_until(lambda: len(_line(self._boxes[box].pid)) > depth, 5, f"{box} starts")
        self._first[box] = _line(self._boxes[box].pid)[depth]

    def _entered(self, box: str) -> list[str]:
        return ["nsenter", "--target", str(self._first[box]), *NAMESPACES, "--"]

    def _is_idle(self) -> bool:
        said = self.run("login", "sinfo", "-h", "-p", "debug", "-t", "idle", "-o", "%D").stdout
        return said.strip() == str(len(self.nodes))

    def _write_files(self) -> None:
        for name in ("log", "state", "spool", "tmp"):
            (self.folder / name).mkdir(parents=True)
        nodes = [f"NodeName={name} NodeAddr={address}" for name, address in self.nodes.items()]
        hosts = ["127.0.0.1 localhost", "10.77.0.1 login"]
        hosts += [f"{address} {name}" for name, address in self.nodes.items()]
        # Any device file that exists makes a pretended GPU.
        gpus = [f"NodeName={name} Name=gpu File=/dev/tty[0-1]" for name in self.nodes]
        files = {
            "slurm.conf": SLURM.format(folder=self.folder, nodes="\n".join(nodes)),
            "gres.conf": "\n".join(gpus) + "\n",
            "hosts": "\n".join(hosts) + "\n",
            "sshd_config": SSHD.format(folder=self.folder),
            "ssh_config": SSH.format(folder=self.folder),
        }
        for name, text in files.items():
            (self.folder / name).write_text(text)
        key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / "key")]
        subprocess.run(key, check=True)


def _line(process: int) -> list[int]:
    """A process, its first child, that one's first child, and so on."""
    line = [process]
    while True:
        try:
            children = Path(f"/proc/{line[-1]}/task/{line[-1]}/children").read_text().split()
        except OSError:
            return line
        if not children:
            return line
        line.append(int(children[0]))


def _kill(first: int) -> None:
    """SIGKILL the first process of a box: the kernel ends all others with it."""
    try:
        os.kill(first, 9)
    except ProcessLookupError:
        return
