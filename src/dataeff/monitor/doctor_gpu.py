"""doctor --gpu: what torch sees of the GPUs here, and a sum over the ranks that a training would have."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

from dataeff.inquiry.parameters import padded_vocabulary, parameter_counts
from dataeff.monitor.finding import Finding, ok, problem, warning
from dataeff.study.load import Study

_SUM_SECONDS = 180.0


def gpu(study: Study) -> Iterator[Finding]:
    yield from _seen(study)
    yield from all_reduce(study)


def _seen(study: Study) -> Iterator[Finding]:
    import torch

    wanted = study.hardware.gpus
    if not torch.cuda.is_available():
        said = f"torch {torch.__version__} sees none"
        if not wanted:
            yield ok("GPU", f"{said}, and this scale asks for none")
            return
        yield problem(
            "GPU",
            f"{said}; the scale asks for {wanted} on each node",
            "run this inside an allocation with GPUs; nvidia-smi must show them, and torch be a build for CUDA",
        )
        return
    count, name = torch.cuda.device_count(), torch.cuda.get_device_name(0)
    memory = torch.cuda.get_device_properties(0).total_memory
    if count < wanted:
        yield problem("GPU", f"torch sees {count} x {name}; the scale asks for {wanted}", "ask for more GPUs a node")
    else:
        yield ok("GPU", f"torch {torch.__version__} sees {count} x {name}, {memory / 1e9:.0f} GB each")
    yield memory_for(study, memory)
    if any(part.precision == "bf16" for part in study.scale.families.values()) and not torch.cuda.is_bf16_supported():
        yield problem("GPU", f"{name} has no bf16, which the scale trains in", "set precision: fp16 in the scale")


def memory_for(study: Study, memory_bytes: int) -> Finding:
    """Weights, gradients and moments of the largest model on one GPU; activations come on top."""
    need = max(state_bytes(study, family) for family in study.scale.families)
    said = f"weights, gradients and moments take {need / 1e9:.1f} of {memory_bytes / 1e9:.0f} GB"
    if need > 0.9 * memory_bytes:
        return problem("GPU memory", said, "set a higher hardware: zero_stage, on more GPUs")
    if need > 0.6 * memory_bytes:
        return warning("GPU memory", said, "set hardware: micro_batch: auto, or activation_checkpointing: true")
    return ok("GPU memory", said)


def state_bytes(study: Study, family: str) -> int:
    """fp32: 4 bytes each of weight, gradient and two moments; half precision: 2 + 2 and 12 of the fp32 copy's. ZeRO 1
    splits moments (and copy) over the ranks, 2 the gradients, 3 the weights.
    """
    scale, hardware = study.scale.families[family], study.hardware  # type: ignore[index]
    vocabulary = padded_vocabulary(study.tokenizers[scale.tokenizer])
    count = parameter_counts(family, scale.model, vocabulary).total  # type: ignore[arg-type]
    weight, gradient, moments = (4, 4, 8) if scale.precision == "fp32" else (2, 2, 12)
    ranks = hardware.nodes * hardware.processes
    split = [moments, gradient, weight][: hardware.zero_stage]
    whole = weight + gradient + moments - sum(split)
    return count * whole + count * sum(split) // ranks


def all_reduce(study: Study) -> Iterator[Finding]:
    """Over the processes of this machine; inside an allocation of several nodes, over all of them."""
    command, ranks = _command(study)
    remedy = "see NCCL_DEBUG=INFO, NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME for the network between nodes"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SUM_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        yield problem("all-reduce", f"no sum over {ranks} ranks within {_SUM_SECONDS:.0f} s", remedy)
        return
    except OSError as error:
        yield problem("all-reduce", f"{command[0]}: {error.strerror}", "make setup")
        return
    line = next((line for line in done.stdout.splitlines() if line.startswith('{"ranks"')), None)
    if done.returncode != 0 or line is None:
        said = [text for text in done.stderr.splitlines() if "Error" in text or "error" in text] or ["no answer"]
        yield problem("all-reduce", f"no sum over {ranks} ranks: {said[-1].strip()[:200]}", remedy)
        return
    told = json.loads(line)
    speed = f"{told['ranks']} ranks by {told['backend']}, {told['bytes_per_second'] / 1e9:.2f} GB/s of sums"
    if not told["right"]:
        yield problem("all-reduce", f"{speed}: the sum is wrong", "the driver or the network damages data")
    else:
        yield ok("all-reduce", speed)


def _command(study: Study) -> tuple[list[str], int]:
    """torchrun, started once a node by srun where this is the batch part of an allocation of several nodes."""
    processes, nodes = study.hardware.processes, int(os.environ.get("SLURM_NNODES", "1"))
    run = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
    program = ["-m", "dataeff.monitor.all_reduce"]
    if nodes == 1:
        return [*run, "--standalone", *program], processes
    head, port = _head(), _free_port()
    meeting = [f"--nnodes={nodes}", "--rdzv-backend=c10d", f"--rdzv-endpoint={head}:{port}"]
    meeting.append(f"--rdzv-id={os.environ.get('SLURM_JOB_ID', 'doctor')}")
    step = ["srun", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", "--mpi=none"]
    return [*step, *run, *meeting, *program], nodes * processes


def _head() -> str:
    """The first node of the allocation."""
    listed = os.environ.get("SLURM_JOB_NODELIST", "")
    said = subprocess.run(["scontrol", "show", "hostnames", listed], capture_output=True, text=True, check=False)
    return said.stdout.split()[0] if said.returncode == 0 and said.stdout.split() else socket.gethostname()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("", 0))
        return int(free.getsockname()[1])
