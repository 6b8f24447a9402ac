"""``python -m mvad.cli``, for launchers that start modules: ``torchrun --nproc-per-node 2 -m mvad.cli train``."""

from mvad.cli.main import run

run()
