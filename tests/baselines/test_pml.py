import subprocess
import sys

import pytest
import torch
from pytorch_metric_learning import losses as pml_losses

from ccpml.baselines.pml import ExternalProxyLoss


def test_lends_the_proxies_for_the_call_alone():
    lent = ExternalProxyLoss(pml_losses.ArcFaceLoss(5, 4), "W")
    assert not list(lent.parameters())
    assert not lent.state_dict()
    proxies = torch.randn(5, 4, requires_grad=True)
    lent(torch.randn(3, 4), torch.arange(3), proxies).backward()
    assert (proxies.grad.norm(dim=1) > 0).all()
    assert lent.loss.W is None


def test_a_peer_that_keeps_its_proxies_elsewhere_is_named():
    with pytest.raises(RuntimeError, match=r"ArcFaceLoss of .*: expected 'weight' as its only parameter"):
        ExternalProxyLoss(pml_losses.ArcFaceLoss(5, 4), "weight")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_peer_alone_would_cast_its_proxies_in_place(dtype):
    peer = pml_losses.ArcFaceLoss(5, 4)
    peer(torch.randn(3, 4, dtype=dtype), torch.arange(3))
    assert peer.W.dtype == dtype


def test_the_peer_alone_has_nan_gradients_where_an_embedding_meets_its_proxy():
    torch.manual_seed(0)
    peer = pml_losses.ArcFaceLoss(50, 8)
    peer(peer.W.detach().T.clone(), torch.arange(50)).backward()
    assert peer.W.grad.isnan().any()


def test_rivals_are_imported_without_the_peer():
    code = "import sys, ccpml.baselines; sys.exit('pytorch_metric_learning' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
