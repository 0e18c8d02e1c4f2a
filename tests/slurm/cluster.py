"""A real SLURM on this machine: munged, slurmctld and some slurmd, each a virtual node with GPUs that are none.

Everything lies in one folder under /tmp and listens on ports that were free, except slurm.conf: SLURM's commands,
started anew by Snakemake without SLURM's own variables, read /etc/slurm/slurm.conf alone. It is written only where
there is none or an earlier cluster of this module left it. Daemons are ended by their process id, and so is what their
jobs started.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

CONF = Path("/etc/slurm/slurm.conf")
MARK = "# Made by tests/slurm/cluster.py of dataeff; removed when its cluster ends.\n"
DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol")
GPUS, CPUS, MEMORY_MB = 4, 8, 16000
START_SECONDS = 30.0
_OTHER_CLUSTER_SECONDS = 900.0

TEMPLATE = """\
ClusterName=virtual
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=10
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmctldParameters=idle_on_node_suspend
SlurmdParameters=config_overrides
SwitchType=switch/none
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=2,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
ReturnToService=2
MinJobAge=3600
KillWait={kill_seconds}
SlurmdTimeout={node_seconds}
SlurmctldTimeout=10
MessageTimeout=10
InactiveLimit=0
MailProg=/bin/true
{extra}
{nodes}
PartitionName=gpu Nodes=ALL Default=YES PriorityTier=1 MaxTime=1-00:00:00 GraceTime={grace_seconds}
PartitionName=cpu Nodes=ALL PriorityTier=1 MaxTime=1-00:00:00 PreemptMode=OFF
PartitionName=short Nodes=ALL PriorityTier=1 MaxTime=2
PartitionName=urgent Nodes=ALL PriorityTier=10 MaxTime=1-00:00:00
"""


def why_not() -> str | None:
    """What keeps this machine from running a cluster; None where it can."""
    if os.geteuid() != 0:
        return "a virtual SLURM is started as root"
    missing = [name for name in DAEMONS if shutil.which(name) is None]
    if missing:
        return (
            f"not installed: {', '.join(missing)} "
            "(Debian: apt-get install --no-install-recommends slurmctld slurmd slurm-client munge)"
        )
    if CONF.exists() and not CONF.read_text().startswith(MARK):
        return f"{CONF} is this machine's own"
    return None


@dataclass
class Cluster:
    """A cluster at work."""

    folder: Path
    names: list[str]
    daemons: dict[str, psutil.Process] = field(default_factory=dict)

    def command(self, *words: str) -> str:
        """What a command of SLURM's says; the test fails where the command does."""
        done = subprocess.run(words, capture_output=True, text=True)
        assert done.returncode == 0, f"{' '.join(words)}: {done.stdout}{done.stderr}"
        return done.stdout

    def start_controller(self) -> None:
        self._start("slurmctld", ["slurmctld", "-D"])
        self.wait(lambda: _succeeds("scontrol", "ping"), "slurmctld does not answer")

    def start_node(self, name: str) -> None:
        self._start(name, ["slurmd", "-D", "-N", name])

    def nodes_are_idle(self) -> bool:
        done = subprocess.run(["sinfo", "-h", "-N", "-p", "gpu", "-o", "%T"], capture_output=True, text=True)
        return done.returncode == 0 and done.stdout.split() == ["idle"] * len(self.names)

    def jobs(self, states: str = "all") -> dict[int, str]:
        """Job ids and their states."""
        said = self.command("squeue", "-h", "-t", states, "-o", "%i %T")
        return {int(number): state for number, state in (line.split() for line in said.splitlines())}

    def steps_at_work(self) -> list[psutil.Process]:
        """The step managers of this cluster's jobs, which outlive their slurmd."""
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def kill(self, name: str) -> None:
        """kill -9 of one daemon."""
        process = self.daemons.pop(name)
        process.kill()
        process.wait()

    def kill_node(self, name: str) -> None:
        """As when a machine loses its power: the daemon, the step managers of this node and all that they started."""
        log = str(self.folder / f"slurmd-{name}.log")
        steps = [step for step in self.steps_at_work() if log in (file.path for file in step.open_files())]
        children = [child for step in steps for child in step.children(recursive=True)]
        self.kill(name)
        _end([*steps, *children])

    def wait(self, condition: Callable[[], bool], otherwise: str, seconds: float = START_SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"{otherwise} after {seconds:.0f} s\n{self.logs()}"
            time.sleep(0.05)

    def logs(self) -> str:
        return "\n".join(f"{path.name}: {path.read_text()[-2000:]}" for path in sorted(self.folder.glob("*.log")))

    def clear(self) -> None:
        """Ends all jobs and what they started, and has all daemons at work, as a test finds the cluster."""
        if "slurmctld" not in self.daemons:
            self.start_controller()
        subprocess.run(["scancel", "--user=root"], capture_output=True)
        self._end_steps()
        for name in self.names:
            if name not in self.daemons:
                self.start_node(name)
        self.wait(lambda: not self.jobs("PD,R,CG") and self.nodes_are_idle(), "the cluster is not clear", 60)

    def stop(self) -> None:
        """Ends all jobs, then the daemons; what is left is killed."""
        if "slurmctld" in self.daemons:
            subprocess.run(["scancel", "--user=root"], capture_output=True)
        self._end_steps()
        _end(list(self.daemons.values()))
        self.daemons.clear()

    def _end_steps(self) -> None:
        steps = self.steps_at_work()
        children = [child for step in steps for child in step.children(recursive=True)]
        _end([*steps, *children])

    def _start(self, name: str, command: list[str]) -> None:
        log = (self.folder / f"{name}.out").open("ab")
        started = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, cwd=self.folder)
        self.daemons[name] = psutil.Process(started.pid)

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            return process.name().startswith("slurmstepd") and any(
                Path(file.path).is_relative_to(self.folder) for file in process.open_files()
            )
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return False


def _succeeds(*command: str) -> bool:
    return subprocess.run(command, capture_output=True).returncode == 0


def _end(processes: list[psutil.Process]) -> None:
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(processes, timeout=10)


def _free_ports(count: int) -> list[int]:
    """Ports that nothing listens on now, held together so that all differ."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def _write_settings(folder: Path, names: list[str], settings: dict[str, object]) -> None:
    host = socket.gethostname().split(".")[0]
    controller, common, *ports = _free_ports(2 + len(names))
    nodes = "\n".join(
        f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={CPUS} "
        f"RealMemory={MEMORY_MB} Gres=gpu:h200:{GPUS}"
        for name, port in zip(names, ports, strict=True)
    )
    values: dict[str, object] = {"kill_seconds": 20, "node_seconds": 10, "grace_seconds": 0, "extra": "", **settings}
    text = TEMPLATE.format(
        host=host, controller_port=controller, node_port=common, folder=folder, nodes=nodes, **values
    )
    devices = folder / "gpus"
    devices.mkdir()
    for number in range(GPUS):
        os.mknod(devices / str(number), 0o666 | 0o020000, os.makedev(1, 3))
    CONF.parent.mkdir(parents=True, exist_ok=True)
    CONF.with_name("gres.conf").write_text(f"{MARK}Name=gpu Type=h200 File={devices}/[0-{GPUS - 1}]\n")
    CONF.write_text(MARK + text)


def _start_munge(cluster: Cluster) -> None:
    """With a key and a socket of its own; munged insists on folders that nobody else can write to."""
    folder = cluster.folder
    key, opened = folder / "munge.key", folder / "munge.socket"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    options = {"key-file": key, "socket": opened, "pid-file": folder / "munged.pid", "log-file": folder / "munged.log"}
    files = [f"--{name}={value}" for name, value in {**options, "seed-file": folder / "munge.seed"}.items()]
    cluster._start("munged", ["munged", "--foreground", "--num-threads=2", *files])
    cluster.wait(opened.exists, "munged made no socket")


@contextmanager
def _alone() -> Iterator[None]:
    """One cluster at a time on this machine: they share slurm.conf."""
    with Path(tempfile.gettempdir(), "dataeff-slurm.lock").open("w") as lock:
        deadline = time.monotonic() + _OTHER_CLUSTER_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                assert time.monotonic() < deadline, "another virtual cluster runs on this machine"
                time.sleep(1)
        os.set_inheritable(lock.fileno(), False)
        yield


@contextmanager
def running_cluster(nodes: int = 3, **settings: object) -> Iterator[Cluster]:
    """A cluster for as long as the block lasts."""
    with _alone(), tempfile.TemporaryDirectory(prefix="dataeff-slurm-", ignore_cleanup_errors=True) as made:
        folder = Path(made)
        folder.chmod(0o755)
        (folder / "state").mkdir()
        cluster = Cluster(folder, [f"n{number}" for number in range(1, nodes + 1)])
        before = signal.getsignal(signal.SIGTERM)
        try:
            _write_settings(folder, cluster.names, settings)
            _start_munge(cluster)
            cluster.start_controller()
            for name in cluster.names:
                cluster.start_node(name)
            cluster.wait(cluster.nodes_are_idle, "the nodes are not ready")
            yield cluster
        finally:
            cluster.stop()
            signal.signal(signal.SIGTERM, before)
            for path in (CONF, CONF.with_name("gres.conf")):
                path.unlink(missing_ok=True)
