"""`python -m dataeff.pretrain.compile`: compiles what DeepSpeed compiles on first use, ahead of the first run."""

from __future__ import annotations

from dataeff.pretrain.engine import compile_communication

if __name__ == "__main__":
    compile_communication()
