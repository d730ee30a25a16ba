"""Evaluation protocols: compute a Result with intervals from embeddings or scores, without models and images."""

__all__ = [
    "PROTOCOLS",
    "Comparisons",
    "Failures",
    "Inputs",
    "NamedPairs",
    "agedb_30",
    "all_pairs",
    "blufr",
    "calfw",
    "calibrate",
    "certified",
    "cfp_ff",
    "cfp_fp",
    "compare",
    "compare_scores",
    "cplfw",
    "detailed",
    "distractors",
    "every_pair",
    "few_groups",
    "gate",
    "group_columns",
    "identification",
    "ijb_identification",
    "ijb_verification",
    "inputs_of",
    "lfw",
    "lfw_bin",
    "lfw_view1",
    "of_list",
    "operating_point",
    "pairs_csv",
    "read_bin_pairs",
    "read_blufr",
    "read_groups",
    "read_lfw_pairs",
    "read_media",
    "read_pairs_csv",
    "read_roles",
    "read_scores",
    "read_ytf",
    "reads",
    "score_comparisons",
    "score_file",
    "score_set",
    "scores",
    "search_table",
    "searched",
    "slices",
    "threshold_at",
    "with_discard",
    "ytf",
]  # fmt: skip

from .bins import agedb_30, calfw, cfp_ff, cfp_fp, cplfw, lfw_bin, read_bin_pairs
from .blufr_trials import blufr, read_blufr
from .calibration import calibrate
from .comparisons import Comparisons, every_pair, of_list
from .csv_pairs import pairs_csv, read_pairs_csv
from .diagnostics import certified, detailed
from .discard import with_discard
from .exhaustive import all_pairs, distractors
from .failures import Failures
from .group_rates import few_groups, read_groups, slices
from .ijb import ijb_identification, ijb_verification, read_media
from .inputs import PROTOCOLS, Inputs, inputs_of, reads
from .named_pairs import NamedPairs
from .non_inferiority import gate
from .open_set import identification, read_roles
from .pairs import lfw, lfw_view1, read_lfw_pairs, scores
from .score_files import group_columns, score_comparisons, score_file, score_set
from .score_table import read_scores
from .search_thresholds import search_table, searched
from .system_comparison import compare, compare_scores
from .thresholds import operating_point, threshold_at
from .ytf_videos import read_ytf, ytf
