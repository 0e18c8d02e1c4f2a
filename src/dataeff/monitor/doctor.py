"""`dataeff doctor`: whether this machine or site can run the study, before anything is submitted, and what to change.

One line for each thing: ok, warning (slower, or to be known) or problem (the study would fail), with its remedy. Ends
with 1 where there is a problem. Run it on the login node (`--slurm`), and in an allocation like a training's (`--gpu`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from dataeff.inquiry.options import study_arguments
from dataeff.monitor.finding import Finding
from dataeff.study.load import Study
from dataeff.study.outside import study_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--gpu", action="store_true", help="also import torch, look at its GPUs, and sum over the ranks"
    )
    parser.add_argument("--slurm", action="store_true", help="a site without SLURM is a problem")
    study_arguments(parser)


def run(args: argparse.Namespace) -> None:
    study = study_of(args)
    print(f"doctor: scale {study.scale_name}, grid {study.grid}", flush=True)
    counts = {"ok": 0, "warning": 0, "problem": 0}
    for finding in findings(study, args):
        print(finding.line, flush=True)
        counts[finding.level] += 1
    print(f"{counts['problem']} problems, {counts['warning']} warnings")
    if counts["problem"]:
        sys.exit(1)


def findings(study: Study, args: argparse.Namespace) -> Iterator[Finding]:
    from dataeff.monitor.doctor_files import files
    from dataeff.monitor.doctor_network import network
    from dataeff.monitor.doctor_slurm import slurm
    from dataeff.monitor.doctor_software import software
    from dataeff.study import site

    yield from software(study, args.root)
    yield from files(study, args.root)
    yield from network(study, args.root)
    yield from slurm(study, site.here(), wanted=args.slurm)
    if args.gpu:
        from dataeff.monitor.doctor_gpu import gpu

        yield from gpu(study)
