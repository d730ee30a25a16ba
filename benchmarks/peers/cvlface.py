"""IJB-B/C 1:1 of CVLface (github mk-minchul/CVLface), from a checkout whose folder CVLFACE names."""

import os
from pathlib import Path
from typing import Any

from benchmarks.harness.sheet import MissingPeer

from .insightface import imported

PLACE = Path("cvlface", "research", "recognition", "code", "run_v1", "evaluations", "ijbbc", "evaluate.py")


def load() -> Any:
    """Its module `evaluate`."""
    path = Path(os.environ.get("CVLFACE", "")) / PLACE
    if not path.exists():
        raise MissingPeer(
            "CVLface", "git clone --depth 1 https://github.com/mk-minchul/CVLface && export CVLFACE=$PWD/CVLface"
        )
    module = imported(path)
    module.tqdm = lambda each, **_: each
    return module
