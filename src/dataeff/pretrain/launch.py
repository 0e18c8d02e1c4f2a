"""Several ranks on this machine, alone or with other nodes: torchrun inside this process, so that its end is the run's.

torchrun by itself ends with 1 whatever its ranks say, and a scheduler could not tell a preempted run from a failed
one. Here a run that a signal stopped ends with the code that each of its ranks ends with.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from dataeff.pretrain.signals import EXIT_INTERRUPTED, STOPPING

SAVING_SECONDS = 300
"""How long ranks may take to end their step and save; torchrun itself would kill them after 30."""


@dataclass(frozen=True)
class Meeting:
    """Where the ranks of several nodes find each other, and which of the nodes this is. `address` is node 0's."""

    nodes: int
    node: int
    address: str
    port: int


def start(processes: int, arguments: Sequence[str], meeting: Meeting | None = None) -> NoReturn:
    """Runs `dataeff ARGUMENTS` once per rank of this node, and ends this process as they end."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main

    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(SAVING_SECONDS))
    options = [*_meeting_options(meeting), f"--nproc-per-node={processes}", *_signals_option()]
    try:
        main([*options, "-m", "dataeff", *arguments])
    except SignalException:
        sys.exit(EXIT_INTERRUPTED)
    except ChildFailedError as error:
        codes = {rank: failure.exitcode for rank, failure in sorted(error.failures.items())}
        # Ranks whose sibling was killed are told to stop as well: theirs is then no interruption from outside.
        if EXIT_INTERRUPTED in codes.values() and min(codes.values()) >= 0:
            sys.exit(EXIT_INTERRUPTED)
        told = ", ".join(f"rank {rank} with {code}" for rank, code in codes.items())
        sys.exit(f"dataeff: error: training ended early ({told}); what the ranks said stands above")
    sys.exit(0)


def _meeting_options(meeting: Meeting | None) -> list[str]:
    if meeting is None:
        return ["--standalone"]
    return [
        f"--nnodes={meeting.nodes}",
        f"--node-rank={meeting.node}",
        f"--master-addr={meeting.address}",
        f"--master-port={meeting.port}",
    ]


def _signals_option() -> list[str]:
    """torchrun forwards the signals of every ending, and those that a run takes as one, where it can be told to."""
    from torch.distributed.run import get_args_parser

    names = dict.fromkeys(["SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", *(number.name for number in STOPPING)])
    told = "--signals-to-handle" in get_args_parser().format_help()
    return [f"--signals-to-handle={','.join(names)}"] if told else []
