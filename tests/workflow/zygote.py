"""Snakemake without its second of imports: one process has them and forks itself for every start that a test asks for.

A request is a line of JSON on the standard input, the answer a line with the exit status. What runs is Snakemake's own
command line, in a process of its own, as `python -m snakemake` would run it.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from typing import Any, NoReturn

import pydantic  # noqa: F401
import snakemake.api
import snakemake.workflow  # noqa: F401
import yaml  # noqa: F401
from snakemake import cli


def run(request: dict[str, Any]) -> NoReturn:
    output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for descriptor, target in ((os.open(os.devnull, os.O_RDONLY), 0), (output, 1), (output, 2)):
        os.dup2(descriptor, target)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.path[:0] = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    try:
        cli.main(request["arguments"])
        status: Any = 0
    except SystemExit as ended:
        status = ended.code
    except BaseException:
        status = traceback.format_exc()
    if isinstance(status, str):  # as the interpreter ends a process
        print(status, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1 if isinstance(status, str) else status or 0)


def main() -> None:
    sys.path.pop(0)  # this file's folder, which no `python -m snakemake` has
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            run(json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
