"""The exported script as bash runs it, with a launcher that tells what it is given."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.inquiry.asking import Asked

SCRIPT = {"gpt": "pretrain_gpt.py", "bert": "pretrain_bert.py"}


def options_of(
    ask: Asked, run: str, tmp_path: Path, scale: str = "paper", settings: tuple[str, ...] = ()
) -> dict[str, str]:
    """The options with which the script starts Megatron, as bash hands them on."""
    out = tmp_path / "a folder"
    ask("--run", run, "--out", str(out), scale=scale, settings=settings)
    launcher = tmp_path / "bin" / "deepspeed"
    launcher.parent.mkdir(exist_ok=True)
    launcher.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    launcher.chmod(0o755)
    command = ["bash", str(out / "megatron_flags.sh"), "/megatron", "--hostfile", "hosts"]
    environment = {"PATH": f"{launcher.parent}:/usr/bin:/bin"}
    words = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()
    assert words[:3] == ["--hostfile", "hosts", f"/megatron/{SCRIPT[run.split('-')[0]]}"]
    found: dict[str, str] = {}
    for word in words[3:]:
        if word.startswith("--"):
            assert word not in found
            found[word], last = "", word
        else:
            assert not found[last]
            found[last] = word
    return found
