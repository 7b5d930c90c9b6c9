"""Networks within torch.compile, DDP and fully_shard: projections equal those of the network itself."""

import copy
from functools import partial

import pytest
import torch
from lightning.fabric import Fabric
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn.parallel import DistributedDataParallel

from ccpml import AlternatingProjections, CCPLoss, ContrastiveLoss, create_model, gather_batch
from ccpml.distributed import own_rank, world_size
from ccpml.method.snapshots import weights_of
from ccpml.training import MetricLearning
from tests.ranks import run_on_ranks

C, D, K = 4, 3, 2
SCORES = [0.1, 0.3, 0.2, 0.1, 0.4, 0.3, 0.2]  # with patience 2, it projects at the 4th and the 7th


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7).eval(), nn.ReLU(), nn.Linear(7, D))


def train(model, scores, state=None, rewind=True):
    """Train on the batches of this rank; return the whole state of network, proxies and projections."""
    torch.manual_seed(1)
    criterion = CCPLoss(ContrastiveLoss(), C, D, K)
    projections = AlternatingProjections(model, criterion, strength=0.5, patience=2, rewind=rewind)
    optimizer = torch.optim.Adam([*model.parameters(), *criterion.parameters()], lr=0.05)
    images, labels = torch.randn(7, 8, 5), torch.arange(8) % C
    mine = slice(own_rank() * 8 // world_size(), (own_rank() + 1) * 8 // world_size())

    def pool():
        with torch.no_grad():
            return model(torch.randn(C * 3, 5, generator=torch.Generator().manual_seed(2))).view(C, 3, D)

    if state is None:
        projections.start(pool)
    else:
        projections.load_state_dict(state)
    for score, batch in zip(scores, images, strict=False):
        criterion(*gather_batch(model(batch[mine]), labels[mine])).backward()
        projections.pull()
        optimizer.step()
        optimizer.zero_grad()
        pool()  # a validation, after which fully_shard leaves weights whole
        if projections.observe(score):
            projections.project(pool)
    return {**projections.state_dict(), "proxies": criterion.proxies.detach().clone()}, whole(model)


def whole(model):
    tensors = model.state_dict().items()
    return {
        name.removeprefix("module."): value.full_tensor() if hasattr(value, "full_tensor") else value.clone()
        for name, value in tensors
    }


def sharded(model):
    mesh = init_device_mesh("cpu", (2,))
    fully_shard(model[3], mesh=mesh)  # of 3 rows, one rank has 2
    return fully_shard(model, mesh=mesh)


def on_a_rank(state):
    torch.set_num_threads(1)
    with pytest.raises(ValueError, match="got FullyShardedDataParallel; use fully_shard, or DDP"):
        train(FullyShardedDataParallel(network(), device_id=torch.device("cpu")), [])
    criterion = fully_shard(CCPLoss(ContrastiveLoss(), C, D, K), mesh=init_device_mesh("cpu", (2,)))
    with pytest.raises(ValueError, match="proxies: expected whole on each rank, got a shard"):
        AlternatingProjections(network(), criterion)
    wrappers = DistributedDataParallel, sharded
    return [[train(wrap(network()), SCORES[:6]), train(wrap(network()), SCORES[:2], state)] for wrap in wrappers]


def test_ranks_train_as_one_process_does():
    state, _ = train(network(), SCORES[:5])
    expected = [train(network(), SCORES[:6]), train(network(), SCORES[:2], copy.deepcopy(state))]
    assert [one["instance"] for one, _ in expected] == [1, 2]
    for ranks in run_on_ranks(on_a_rank, 2, state):
        for found in ranks:
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_compiled_network_has_the_names_of_the_network():
    expected, weights = train(network(), SCORES[:4])
    model = network()
    state, _ = train(torch.compile(model, backend="eager"), SCORES[:4])
    torch.testing.assert_close(state, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(whole(model), weights, rtol=1e-4, atol=1e-5)


def test_a_network_of_lightning_fabric_has_the_names_of_the_network():
    expected, weights = train(network(), SCORES[:4])
    model = network()
    state, _ = train(Fabric(accelerator="cpu", devices=1).setup(model), SCORES[:4])
    torch.testing.assert_close(state, expected)
    torch.testing.assert_close(whole(model), weights)
    AlternatingProjections(network(), CCPLoss(ContrastiveLoss(), C, D, K)).load_state_dict(state)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod.", "_forward_module.module."])
def test_a_state_by_the_names_of_a_wrapper_is_loaded(prefix):
    """Older versions saved them so."""
    state, _ = train(network(), SCORES[:5])
    old = copy.deepcopy(state)
    for kind in ("anchor", "best", "best_buffers"):
        old[kind] = {prefix + name: tensor for name, tensor in old[kind].items()}
    loaded = AlternatingProjections(network(), CCPLoss(ContrastiveLoss(), C, D, K))
    loaded.load_state_dict(old)
    torch.testing.assert_close(loaded.state_dict(), {name: state[name] for name in loaded.state_dict()})


def test_parts_that_are_compiled_are_what_they_are_within():
    """By its type, a compiled part would be one of another library, or no embedding model with a head."""
    x, labels = 3 * torch.randn(8, D), torch.arange(8) % C
    compiled = torch.compile(ContrastiveLoss(normalize=None), backend="eager")
    torch.manual_seed(0)
    expected = CCPLoss(ContrastiveLoss(normalize=None), C, D, K)(x, labels)
    torch.manual_seed(0)
    torch.testing.assert_close(CCPLoss(compiled, C, D, K)(x, labels), expected)
    model = create_model("small_conv", embedding_dim=D, channels=1)
    criterion = CCPLoss(compiled, C, D, K)
    groups = [
        [(len(group["params"]), group["lr"]) for group in module.configure_optimizers().param_groups]
        for module in (
            MetricLearning(model, criterion, 0.1, head_lr_factor=10.0),
            MetricLearning(torch.compile(model, backend="eager"), criterion, 0.1, head_lr_factor=10.0),
        )
    ]
    assert groups[0] == groups[1]
    assert len(groups[0]) == 3


def test_names_are_those_of_the_network_within_several_wrappers():
    model, compiled = network(), partial(torch.compile, backend="eager")
    fabric = Fabric(accelerator="cpu", devices=1)
    for wrapped in (nn.DataParallel(compiled(model)), compiled(nn.DataParallel(model)), fabric.setup(compiled(model))):
        assert weights_of(wrapped, nn.Identity()).keys() == dict(model.named_parameters()).keys()


def test_a_compiled_criterion_is_that_of_the_projections():
    criterion = CCPLoss(ContrastiveLoss(), C, D, K)
    assert AlternatingProjections(network(), torch.compile(criterion, backend="eager")).criterion is criterion


def test_scores_may_be_observed_in_inference_mode_or_not():
    """What torch makes in inference mode cannot be changed outside of it."""
    model, criterion = nn.Linear(5, 3), CCPLoss(ContrastiveLoss(), 4, 3, 2)
    projections = AlternatingProjections(model, criterion, rewind=True)
    projections.start(lambda: torch.randn(4, 6, 3))
    for score in (0.1, 0.2, 0.3):
        with torch.inference_mode(score != 0.2):
            model.weight.data += 1
            if score == 0.3:
                projections.capture()
            projections.observe(score)
    best = model.weight.detach().clone()
    model.weight.data += 1
    projections.project(lambda: torch.randn(4, 6, 3))
    assert torch.equal(model.weight, best)
