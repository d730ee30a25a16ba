"""Protocols: Embeddings in, a Result out, with intervals; never a model, never an image."""

from ..registry import Registry
from ..types import Result

__all__ = [
    "PROTOCOLS", "Comparisons", "agedb_30", "all_pairs", "blufr", "calfw", "calibrate", "certified", "cfp_ff",
    "cfp_fp", "compare", "cplfw", "detailed", "distractors", "every_pair", "few_groups", "gate", "identification",
    "ijb_identification", "ijb_verification", "lfw", "lfw_bin", "lfw_view1", "of_list", "operating_point",
    "pairs_csv", "read_bin_pairs", "read_blufr", "read_groups", "read_lfw_pairs", "read_media", "read_pairs_csv",
    "read_roles", "read_ytf", "scores", "slices", "ytf",
]  # fmt: skip

PROTOCOLS: Registry[Result] = Registry("protocol", __name__)

from .bins import agedb_30, calfw, cfp_ff, cfp_fp, cplfw, lfw_bin, read_bin_pairs  # noqa: E402 - register themselves
from .blufr import blufr, read_blufr  # noqa: E402
from .calibration import calibrate  # noqa: E402
from .compare import compare  # noqa: E402
from .comparisons import Comparisons, every_pair, of_list  # noqa: E402
from .csv_pairs import pairs_csv, read_pairs_csv  # noqa: E402
from .detail import certified, detailed  # noqa: E402
from .everyone import all_pairs, distractors  # noqa: E402
from .gate import gate  # noqa: E402
from .identification import identification, read_roles  # noqa: E402
from .ijb import ijb_identification, ijb_verification, read_media  # noqa: E402
from .operating_point import operating_point  # noqa: E402
from .pairs import lfw, lfw_view1, read_lfw_pairs, scores  # noqa: E402
from .slices import few_groups, read_groups, slices  # noqa: E402
from .ytf import read_ytf, ytf  # noqa: E402
