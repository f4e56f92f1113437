"""SSIM and MS-SSIM of frames. Windows are two matrix products, which are ten times as fast on a CPU as convolutions.

Axes: N frames, H, W, C as frames have them.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

KERNEL, SIGMA = 11, 1.5  # of the Gaussian window (Wang et al. 2004, "Image quality assessment")
C1, C2 = 0.01**2, 0.03**2  # for values in [0, 1]
SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # weights of the scales (Wang et al. 2003, "Multiscale ...")
CHUNK = 16  # frames processed at once, so that intermediate maps fit a core's cache


class Similarity(NamedTuple):
    """Similarity of pairs of frames, 1 for identical ones."""

    ssim: NDArray[np.float64]  # (N,)
    ms_ssim: NDArray[np.float64] | None  # (N,); None where the frames are too small for two scales


def scales_of(height: int, width: int) -> int:
    """How many of the five scales frames have: each halves them, and the window must still fit."""
    return max(1, sum(min(height, width) >> halvings >= KERNEL for halvings in range(len(SCALES))))


def similarity(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> Similarity:
    """SSIM and MS-SSIM of pairs of uint8 frames (N, H, W, C), over windows that lie inside the frame.

    Frames with less than five scales get those that fit, with the published weights scaled to a sum of one; frames
    smaller than the window get a smaller one.
    """
    scales = scales_of(*a.shape[1:3])
    parts = [_of_chunk(a[at : at + CHUNK], b[at : at + CHUNK], scales) for at in range(0, len(a), CHUNK)]
    whole = torch.cat(parts, 1).double().numpy() if parts else np.zeros((2, 0))
    return Similarity(whole[0], whole[1] if scales > 1 else None)


def _of_chunk(a: NDArray[np.uint8], b: NDArray[np.uint8], scales: int) -> Tensor:
    """(2, N): SSIM and MS-SSIM."""
    x, y = (torch.from_numpy(frames.transpose(0, 3, 1, 2).astype(np.float32) / 255) for frames in (a, b))
    weights = torch.tensor(SCALES[:scales])
    weights = weights / weights.sum()
    product, first = torch.ones(len(x)), torch.zeros(len(x))
    for scale in range(scales):
        if scale:
            x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
        whole, structure = _at_scale(x, y)
        first = whole if scale == 0 else first
        value = whole if scale == scales - 1 else structure
        product = product * value.clamp_min(0) ** weights[scale]
    return torch.stack([first, product])


def _at_scale(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean SSIM (N,), and its contrast-structure term (N,), of frames (N, C, H, W)."""
    down, across = (_window(size) for size in x.shape[-2:])
    maps = torch.stack([x, y, x * x, y * y, x * y])
    mean_x, mean_y, xx, yy, xy = (down @ maps @ across.T).unbind()
    var_x, var_y = (xx - mean_x**2).clamp_min(0), (yy - mean_y**2).clamp_min(0)
    structure = (2 * (xy - mean_x * mean_y) + C2) / (var_x + var_y + C2)
    luminance = (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
    return (luminance * structure).mean((1, 2, 3)), structure.mean((1, 2, 3))


@lru_cache(maxsize=16)
def _window(size: int) -> Tensor:
    """(size - K + 1, size): row i weighs the K values from i on by the Gaussian window."""
    kernel = min(KERNEL, size - 1 + size % 2)
    places = torch.arange(kernel) - (kernel - 1) / 2
    gaussian = torch.exp(-(places**2) / (2 * SIGMA**2))
    rows = torch.zeros(size - kernel + 1, size)
    for i in range(len(rows)):
        rows[i, i : i + kernel] = gaussian / gaussian.sum()
    return rows
