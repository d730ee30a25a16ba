"""Protocols: Embeddings in, a Result out, with intervals; never a model, never an image."""

__all__ = [
    "PROTOCOLS", "Comparisons", "Inputs", "NamedPairs", "agedb_30", "all_pairs", "blufr", "calfw", "calibrate",
    "certified", "cfp_ff", "cfp_fp", "compare", "cplfw", "detailed", "distractors", "every_pair", "few_groups",
    "gate", "identification", "ijb_identification", "ijb_verification", "inputs_of", "lfw", "lfw_bin", "lfw_view1",
    "of_list", "operating_point", "pairs_csv", "read_bin_pairs", "read_blufr", "read_groups", "read_lfw_pairs",
    "read_media", "read_pairs_csv", "read_roles", "read_ytf", "reads", "scores", "slices", "ytf",
]  # fmt: skip

from .bins import agedb_30, calfw, cfp_ff, cfp_fp, cplfw, lfw_bin, read_bin_pairs
from .blufr import blufr, read_blufr
from .calibration import calibrate
from .compare import compare
from .comparisons import Comparisons, every_pair, of_list
from .csv_pairs import pairs_csv, read_pairs_csv
from .detail import certified, detailed
from .everyone import all_pairs, distractors
from .gate import gate
from .identification import identification, read_roles
from .ijb import ijb_identification, ijb_verification, read_media
from .inputs import PROTOCOLS, Inputs, inputs_of, reads
from .lookup import NamedPairs
from .operating_point import operating_point
from .pairs import lfw, lfw_view1, read_lfw_pairs, scores
from .slices import few_groups, read_groups, slices
from .ytf import read_ytf, ytf
