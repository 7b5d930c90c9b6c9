"""Euclidean distances that are exactly 0 for equal vectors."""

import torch
from torch import Tensor

__all__ = ["euclidean_distances"]


def euclidean_distances(x: Tensor, y: Tensor) -> Tensor:
    """Return the Euclidean distance of each row of ``x`` to each row of ``y``, without gradients.

    D_ij = ‖x_i − y_j‖ is expanded as ‖x‖² + ‖y‖² − 2 x·y in float64: as fast as a matrix product, without cancellation.
    In float32, equal vectors would be at a distance of 3e-4. In float64, the rounding error is at most about d · 1e-16
    of ‖x‖² + ‖y‖²; a squared distance within that is set to 0.

    Both are float32 or float64, of shapes (B, d) and (M, d); the distances, of shape (B, M), are in the same dtype.

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
