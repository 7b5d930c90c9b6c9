import subprocess
import sys

import pytest
import torch
from pytorch_metric_learning import losses as pml_losses

from ccpml.baselines.pml import ExternalProxyLoss


def test_proxies_are_an_argument():
    loss = ExternalProxyLoss(pml_losses.ArcFaceLoss(5, 4), "W")
    assert not list(loss.parameters())
    assert not loss.state_dict()
    proxies = torch.randn(5, 4, requires_grad=True)
    loss(torch.randn(3, 4), torch.arange(3), proxies).backward()
    assert (proxies.grad.norm(dim=1) > 0).all()
    assert loss.loss.W is None


def test_unexpected_parameters_of_the_loss_raise():
    with pytest.raises(RuntimeError, match=r"ArcFaceLoss of .*: expected 'weight' as its only parameter"):
        ExternalProxyLoss(pml_losses.ArcFaceLoss(5, 4), "weight")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_library_alone_casts_its_proxies_in_place(dtype):
    theirs = pml_losses.ArcFaceLoss(5, 4)
    theirs(torch.randn(3, 4, dtype=dtype), torch.arange(3))
    assert theirs.W.dtype == dtype


def test_the_library_alone_has_nan_gradients_where_an_embedding_meets_its_proxy():
    torch.manual_seed(0)
    theirs = pml_losses.ArcFaceLoss(50, 8)
    theirs(theirs.W.detach().T.clone(), torch.arange(50)).backward()
    assert theirs.W.grad.isnan().any()


def test_baselines_are_imported_without_pml():
    code = "import sys, ccpml.baselines; sys.exit('pytorch_metric_learning' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
