"""Euclidean distances that stay exact where two vectors meet."""

import torch
from torch import Tensor

__all__ = ["euclidean_distances"]


def euclidean_distances(x: Tensor, y: Tensor) -> Tensor:
    """Euclidean distance of every row of ``x`` to every row of ``y``, without gradients.

    D_ij = ‖x_i − y_j‖ by ‖x‖² + ‖y‖² − 2 x·y in float64: the speed of a matrix product without its cancellation.
    In float32 the expansion would turn equal vectors into ones at distance 3e-4. In float64 its rounding error
    is at most about d · 1e-16 of ‖x‖² + ‖y‖²; a squared distance within that is 0: the vectors are equal.

    Args:
        x: Vectors, shape (B, d), float32 or float64.
        y: Vectors, shape (M, d), of the same dtype.

    Returns:
        Distances, shape (B, M); of equal rows exactly 0.

    Example:
        >>> euclidean_distances(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([[5., 0.]])
    """
    work = torch.float32 if x.device.type == "mps" else torch.float64  # mps has no float64
    x_, y_ = x.detach().to(work), y.detach().to(work)
    lengths, ref_lengths = (torch.linalg.vector_norm(v, dim=1).square_() for v in (x_, y_))
    squared = torch.addmm(ref_lengths, x_ * -2, y_.T).add_(lengths[:, None]).to(x.dtype)  # (B, M)
    rounding = (x.shape[1] + 4) * torch.finfo(work).eps
    least = torch.add((lengths * rounding).to(x.dtype)[:, None], (ref_lengths * rounding).to(x.dtype))
    return squared.mul_(torch.gt(squared, least, out=least)).sqrt_()
