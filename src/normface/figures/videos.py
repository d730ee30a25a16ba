"""Figure 9: a pair of videos as the histogram of the cosines between their frames."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import torch

from ..losses import CosineSoftmax
from ..ops import l2_normalize
from ..protocols import metrics
from ..protocols.ytf_videos import VIDEO_BINS, describe
from ..report.plots import COLORS, STYLES
from ..types import Floats, Ints, ScoreSet
from . import FIGURES, mnist
from .drawing import INK, Drawing, Progress, panels, title

EPOCHS, DIM, FRAMES = 4, 16, 10


def pairs(vectors: Floats, labels: Ints, frames: int = FRAMES) -> dict[str, Any]:
    """Cut each digit's images into videos of `frames`, and describe all genuine and as many random impostor pairs.

    Args:
        vectors: [N, D] unit, images of a digit one after another.

    Returns `same` [P], `means` [P] of the cosines between the frames of a pair, and `histograms` [P, 100] of sum 1,
    as the protocol `ytf` makes them: frames are centered by the mean of the videos' means.
    """
    videos = [each for digit in np.unique(labels) for each in np.split(
        np.flatnonzero(labels == digit), range(frames, int((labels == digit).sum()), frames)
    )]  # fmt: skip
    whose = np.array([labels[video[0]] for video in videos])
    left, right = np.array(list(combinations(range(len(videos)), 2))).T
    same = whose[left] == whose[right]
    others = np.random.default_rng(0).choice(np.flatnonzero(~same), int(same.sum()), replace=False)
    chosen = np.concatenate([np.flatnonzero(same), np.sort(others)])
    center = np.array([vectors[video].mean(0) for video in videos]).mean(0)
    means, histograms = describe(vectors, videos, left[chosen], right[chosen], center)
    return {"same": same[chosen], "means": means, "histograms": histograms}


@FIGURES.register
def videos(progress: Progress, epochs: int = EPOCHS) -> Drawing:
    """Figure 9: histograms of the cosines between the frames of two videos, of one person and of two."""
    torch.manual_seed(0)
    model, loss, data = mnist.network(DIM), CosineSoftmax(mnist.CLASSES, DIM), mnist.digits()
    mnist.fit(model, loss, epochs=epochs, seed=0, progress=progress)
    vectors = l2_normalize(mnist.features(model, data.test)).numpy()
    found = pairs(vectors, data.test_labels.numpy())
    same, means, histograms = found["same"], found["means"], found["histograms"]
    figure, axes = panels(1, 3, 11, 3.6)
    bins = np.linspace(-1, 1, VIDEO_BINS + 1)
    for ax, kind, name in zip(axes[0], (same, ~same), ("the same digit", "two digits"), strict=False):
        rows = histograms[kind][np.argsort(means[kind])]
        ax.imshow(np.sqrt(rows), aspect="auto", cmap="Greys", extent=(-1, 1, 0, len(rows)), interpolation="nearest")
        title(ax, f"{len(rows)} pairs of videos of {name}")
        ax.set_xlabel("Cosine of two frames", color=INK)
    axes[0, 0].set_ylabel("Pair, by its mean cosine", color=INK)
    kinds = {"same": same, "different": ~same}
    for (name, kind), color, style in zip(kinds.items(), COLORS, STYLES, strict=False):
        axes[0, 2].plot((bins[1:] + bins[:-1]) / 2, histograms[kind].mean(0), style, color=color, label=name)
    axes[0, 2].set_xlabel("Cosine of two frames", color=INK)
    axes[0, 2].set_ylabel("Mean histogram", color=INK)
    axes[0, 2].legend(frameon=False, fontsize=9, labelcolor=INK)
    scores = ScoreSet(means, same, np.zeros(len(same), np.int64))
    apart, equal = metrics.d_prime(scores), metrics.eer(metrics.roc(scores))
    caption = (
        f"Digits stand for people: a video is {FRAMES} test images of one. The histogram of all cosines between the "
        "frames of two videos is what the paper gives to a support vector machine with the intersection kernel. By "
        f"their mean alone these pairs have an EER of {equal:.1%}."
    )
    numbers = {
        "mean_histogram": {name: histograms[kind].mean(0).tolist() for name, kind in kinds.items()},
        "mean_cosine": {name: float(means[kind].mean()) for name, kind in kinds.items()},
        "d_prime": apart, "eer_of_means": equal, "pairs": len(same), "frames": FRAMES, "epochs": epochs, "seed": 0,
    }  # fmt: skip
    return Drawing(figure, caption, numbers)
