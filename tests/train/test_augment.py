"""Augmentation on the device: what each number does, against OpenCV, torch's own resampling and plain arithmetic."""

import cv2
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch.nn import functional as F

from normface.errors import InputError
from normface.faces import retarget
from normface.train.augment import _NUMBERS, augment, clean, draw, mix, move, prepare
from normface.train.config import DataConfig
from normface.types import InputSpec

SPEC = InputSpec(40, 32, template="112x96")
PLAIN = dict.fromkeys(_NUMBERS, 0.5) | {
    "mirror": 0.9,
    "crop": 0.9,
    "low": 0.9,
    "cover": 0.9,
    "blur": 0.9,
    "clean": 0.9,
    "mix": 0.9,
}


@pytest.fixture
def images():
    smooth = np.random.default_rng(0).integers(0, 256, (3, 10, 8, 3)).astype(np.float32)
    return (
        np.stack([cv2.resize(image, (32, 40), interpolation=cv2.INTER_CUBIC) for image in smooth])
        .clip(0, 255)
        .astype(np.uint8)
    )


def numbers(count=3, **values):
    return torch.tensor([[(PLAIN | values)[name] for name in _NUMBERS]] * count, dtype=torch.float64)


def varied(images, config, **values):
    """Pixels [N, H, W, 3] after the variation."""
    x = augment(torch.from_numpy(images), numbers(len(images), **values), DataConfig(mirror=False, **config))
    return x.permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize(
    "spec", [SPEC, InputSpec(40, 32, order="BGR"), InputSpec(40, 32, 1, mean=(127.5,), std=(128.0,)),
             InputSpec(40, 32, mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))]
)  # fmt: skip
def test_without_variation_it_is_what_evaluation_feeds(images, spec):
    x = prepare(augment(torch.from_numpy(images), numbers(), DataConfig()), spec)
    np.testing.assert_allclose(x.numpy(), spec.prepare(images), atol=2e-6)


@pytest.mark.parametrize(("size", "template"), [((112, 112), "112x96"), ((112, 96), "112x112")])
def test_other_templates_are_cut_and_padded_as_in_evaluation(size, template):
    crops = np.random.default_rng(0).integers(0, 256, (2, *size, 3), dtype=np.uint8)
    spec = InputSpec(112, int(template[4:]), template=template)
    x = prepare(torch.from_numpy(crops).permute(0, 3, 1, 2).float(), spec)
    np.testing.assert_allclose(x.numpy(), spec.prepare(retarget(crops, template)), atol=2e-6)
    with pytest.raises(InputError, match="aligned crops"):
        prepare(torch.zeros(1, 3, 50, 60), spec)


def test_mirror(images):
    x = augment(torch.from_numpy(images), numbers(mirror=0.1), DataConfig())
    np.testing.assert_array_equal(x.permute(0, 2, 3, 1).numpy(), images[:, :, ::-1])
    moved = augment(torch.from_numpy(images), numbers(mirror=0.1), DataConfig(shift=1.0))
    np.testing.assert_allclose(moved.numpy(), x.numpy(), atol=1e-2)


def test_moves_as_opencv_does(images):
    """Shift by 2 and -1 pixels, turn by 5 degrees and zoom by 1.1 at once."""
    found = varied(images, dict(shift=4.0, rotate=10.0, zoom=0.2), right=0.75, down=0.375, rotate=0.75, zoom=0.75)
    warp = cv2.getRotationMatrix2D((15.5, 19.5), 5.0, 1.1)
    # The shift is of the place that is looked at: turned and zoomed as the rest.
    warp[:, 2] += warp[:, :2] @ (2.0, -1.0)
    for image, ours in zip(images, found, strict=True):
        theirs = cv2.warpAffine(image.astype(np.float32), warp, (32, 40), borderMode=cv2.BORDER_REPLICATE)
        assert np.abs(ours - theirs).max() < 3  # OpenCV counts places in 1/32 pixels
        assert np.abs(ours - theirs).mean() < 0.3


def test_a_cut_is_what_torch_resizes(images):
    """A quarter of the area, of the crop's own shape, from the lower right."""
    found = varied(images, dict(crop=1.0), crop=0.0, crop_area=0.0625, crop_x=1 - 1e-9, crop_y=1 - 1e-9)
    assert 0.2 + 0.8 * 0.0625 == 0.25
    cut = torch.from_numpy(images[:, 20:, 16:]).permute(0, 3, 1, 2).float()
    theirs = F.interpolate(cut, (40, 32), mode="bilinear", align_corners=False).permute(0, 2, 3, 1).numpy()
    inside = np.s_[:, 2:-2, 2:-2]  # torch repeats the cut's border, we see what lies beyond
    np.testing.assert_allclose(found[inside], theirs[inside], atol=1e-2)


def test_light_and_colour(images):
    found = varied(images, dict(light=0.2, colour=1.0), contrast=0.75, brightness=0.25, colour=0.0)
    gray = images @ (0.299, 0.587, 0.114)
    expected = ((gray - 127.5) * 1.1 + 127.5 * 0.9).clip(0, 255)
    np.testing.assert_allclose(found, np.repeat(expected[..., None], 3, axis=3), atol=1e-2)


def test_low_resolution_is_area_down_and_linear_up(images):
    found = varied(images, dict(low_resolution=1.0), low=0.0, low_size=0.375)  # to a half
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    theirs = F.interpolate(F.interpolate(x, (20, 16), mode="area"), (40, 32), mode="bilinear")
    np.testing.assert_allclose(found, theirs.permute(0, 2, 3, 1).numpy(), atol=1e-2)


def test_a_rectangle_covers_the_stated_part(images):
    found = varied(images, dict(occlude=1.0), cover=0.0, cover_area=23 / 31, cover_x=0.0, cover_y=0.0, cover_grey=0.2)
    assert 0.02 + 0.31 * 23 / 31 == 0.25
    np.testing.assert_allclose(found[:, :20, :16], 51.0, atol=1e-3)
    rest = np.ones((40, 32), bool)
    rest[:20, :16] = False
    np.testing.assert_allclose(found[:, rest], images[:, rest], atol=1e-3)


def test_how_often():
    """Each variation touches as many images as its number says, and leaves the others as they are."""
    images = np.random.default_rng(1).integers(0, 256, (2000, 8, 8, 3), dtype=np.uint8)
    drawn = torch.from_numpy(draw(2000, np.random.default_rng(2)))
    for config in (dict(crop=0.3), dict(low_resolution=0.3), dict(occlude=0.3)):
        x = augment(torch.from_numpy(images), drawn, DataConfig(mirror=False, **config)).permute(0, 2, 3, 1)
        changed = (np.abs(x.numpy() - images) > 0.1).any(axis=(1, 2, 3)).mean()
        assert 0.2 < changed < 0.35, config  # 0.3 ± 3σ, less those whose size rounds to the whole


def test_an_image_depends_on_its_own_numbers_alone(images):
    config = DataConfig(shift=3, rotate=10, zoom=0.1, light=0.2, colour=0.5, crop=0.5, low_resolution=0.5, occlude=0.5)
    drawn = torch.from_numpy(draw(3, np.random.default_rng(3)))
    whole = augment(torch.from_numpy(images), drawn, config)
    parts = [augment(torch.from_numpy(images[i : i + 1]), drawn[i : i + 1], config) for i in range(3)]
    torch.testing.assert_close(whole, torch.cat(parts), atol=1e-5, rtol=0)
    assert whole.isfinite().all()


@pytest.mark.parametrize("config", [{}, {"shift": 3.0}, {"shift": 4.0, "rotate": 8.0, "zoom": 0.1, "crop": 0.5}])
def test_the_host_moves_crops_as_the_device_does(images, config):
    drawn, config = draw(3, np.random.default_rng(5)), DataConfig(**config)
    whole = augment(torch.from_numpy(images), torch.from_numpy(drawn), config)
    moved = images.copy()
    move(moved, drawn, config)
    parts = augment(torch.from_numpy(moved), torch.from_numpy(drawn), config, moved=True)
    apart = (parts - whole).abs()
    assert apart.max() < 4  # OpenCV counts places in 1/32 pixels, and gray levels in whole ones
    assert apart.mean() < 0.5


def test_blurs_as_scipy_does(images):
    """Half of 4 pixels. OpenCV and SciPy cut a Gaussian off; over 8 deviations nothing is left to cut."""
    found = varied(images, dict(blur=1.0), blur=0.0, blur_size=0.5)
    for image, ours in zip(images, found, strict=True):
        padded = np.zeros((3, 40 + 32, 32 + 32))  # what lies outside counts for nothing: weights of the rest are scaled
        padded[:, 16:-16, 16:-16] = image.transpose(2, 0, 1)
        inside = np.zeros_like(padded)
        inside[:, 16:-16, 16:-16] = 1
        sums, shares = (gaussian_filter(each, (0, 2, 2), truncate=8) for each in (padded, inside))
        np.testing.assert_allclose(ours, (sums / shares)[:, 16:-16, 16:-16].transpose(1, 2, 0), atol=0.01)
    np.testing.assert_array_equal(varied(images, dict(blur=0.5), blur=0.6, blur_size=0.5), images)


def test_teachers_see_a_share_of_views_clean(images):
    """The same place in the crop, without what spoils it."""
    config = DataConfig(mirror=False, shift=4.0, light=0.5, colour=0.5, blur=1.0, low_resolution=1.0, occlude=1.0)
    drawn = numbers(3, right=0.9, contrast=0.9, low=0.1, low_size=0.3, cover=0.1, blur=0.1)
    drawn[1, _NUMBERS.index("clean")] = 0.2
    crops = torch.from_numpy(images)
    spoiled = augment(crops, drawn, config)
    seen = clean(crops, drawn, config, spoiled, 0.5)
    torch.testing.assert_close(seen[[0, 2]], spoiled[[0, 2]], rtol=0, atol=0)
    torch.testing.assert_close(seen[1], augment(crops, drawn, DataConfig(mirror=False, shift=4.0))[1], rtol=0, atol=0)
    assert (seen[1] - spoiled[1]).abs().mean() > 5


def test_mixes_with_the_next_face(images):
    drawn = numbers(3).numpy()
    drawn[:, _NUMBERS.index("mix")] = 0.1, 0.9, 0.2
    drawn[:, _NUMBERS.index("mix_share")] = 0.25, 0.5, 0.75
    found = images.copy()
    assert mix(found, drawn, DataConfig(mix=0.5)).tolist() == [True, False, True]
    np.testing.assert_array_equal(found[1], images[1])
    for row, other, share in ((0, 1, 0.25), (2, 0, 0.75)):
        expected = share * images[row].astype(float) + (1 - share) * images[other]
        assert np.abs(found[row] - expected).max() <= 0.5
