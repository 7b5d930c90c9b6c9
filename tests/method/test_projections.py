import copy
import io

import pytest
import torch
from torch import nn

from ccpml import AlternatingProjections, CCPLoss, ContrastiveLoss, greedy_k_center, lipschitz_normalize
from ccpml.options import ProjectionOptions

C, B, D, K = 4, 6, 3, 2


def setup(**options):
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, D))
    criterion = CCPLoss(ContrastiveLoss(), C, D, K)
    return model, criterion, AlternatingProjections(model, criterion, **options)


def pool():
    return torch.randn(C, B, D)


def picks(points, centers):
    return points.take_along_dim(greedy_k_center(points, centers, K)[:, :, None], 1)


def train_step(model, criterion, projections, optimizer):
    optimizer.zero_grad()
    criterion(model(torch.randn(8, 5)), torch.arange(8) % C).backward()
    projections.pull()
    optimizer.step()


def test_start_sets_proxies_to_k_centers_away_from_the_origin():
    _, criterion, projections = setup()
    points = pool()
    projections.start(lambda: points)
    assert torch.equal(criterion.proxies, picks(points, torch.zeros(C, 1, D)))
    assert (projections.instance, projections.strength_now, projections.best_score) == (0, 0.0, None)


def test_pull_golden(golden):
    file = golden("proximal")
    strengths = sorted({key.split("/")[0] for key in file if key.startswith("lambda_")})
    assert {"lambda_0", "lambda_0.0002"} <= set(strengths)
    model = nn.ParameterList([nn.Parameter(torch.tensor(file[f"anchor_{i}"]).double()) for i in range(4)])
    for name in strengths:
        criterion = CCPLoss(ContrastiveLoss(), 20, 12, 1).double()
        projections = AlternatingProjections(model, criterion, strength=float(name.removeprefix("lambda_")))
        for i in range(4):
            model[i].data = torch.tensor(file[f"anchor_{i}"]).double()
        projections.start(lambda: torch.randn(20, 3, 12))
        projections.observe(0.5)  # the best weights are the anchors of the file
        projections.project(lambda: torch.randn(20, 3, 12))
        criterion.proxies.grad = torch.tensor(file["grad_4"]).double().view(20, 1, 12)
        for i in range(4):
            model[i].data = torch.tensor(file[f"weight_{i}"]).double()
            model[i].grad = torch.tensor(file[f"grad_{i}"]).double()
        projections.pull()
        for i in range(4):
            expected = torch.tensor(file[f"{name}/grad_{i}"]).double()
            torch.testing.assert_close(model[i].grad, expected, rtol=1e-5, atol=1e-9)
        expected = torch.tensor(file[f"{name}/grad_4"]).double()
        torch.testing.assert_close(criterion.proxies.grad.view(20, 12), expected, rtol=0, atol=0)


def test_pull_is_the_gradient_of_the_proximal_term():
    model, _, projections = setup(strength=0.5)
    projections.start(pool)
    projections.pull()  # no anchor in the first instance
    assert all(p.grad is None for p in model.parameters())
    projections.observe(0.1)
    anchor = copy.deepcopy(model)
    projections.project(pool)
    for p in model.parameters():
        p.data.add_(torch.randn_like(p))
    term = sum((p - a.detach()).square().sum() for p, a in zip(model.parameters(), anchor.parameters(), strict=True))
    expected = torch.autograd.grad(0.5 / 2 * term, list(model.parameters()))
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    projections.pull()
    for p, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, gradient)


def test_pull_skips_frozen_and_unused_parameters():
    model, _, projections = setup(strength=1.0)
    projections.start(pool)
    projections.observe(0.1)
    projections.project(pool)
    for p in model.parameters():
        p.data.add_(1)
        p.grad = torch.zeros_like(p)
    model[0].weight.requires_grad_(False)
    model[0].bias.grad = None
    projections.pull()
    assert model[0].weight.grad.count_nonzero() == 0
    assert model[0].bias.grad is None
    torch.testing.assert_close(model[3].weight.grad, torch.ones_like(model[3].weight))


def test_pull_skips_a_criterion_inside_the_model():
    model, criterion, _ = setup()
    both = nn.ModuleDict({"model": model, "criterion": criterion})
    projections = AlternatingProjections(both, criterion, strength=1.0)
    projections.start(pool)
    projections.observe(0.1)
    projections.project(pool)
    for p in both.parameters():
        p.data.add_(1)
        p.grad = torch.zeros_like(p)
    projections.pull()
    assert criterion.proxies.grad.count_nonzero() == 0
    assert model[0].bias.grad.count_nonzero() == 8


def test_an_instance_converges_after_patience_validations_without_improvement():
    *_, projections = setup(patience=3, min_delta=0.01)
    projections.start(pool)
    scores = [0.5, 0.509, 0.4, 0.6, 0.6, 0.605, 0.5]  # 0.509 and 0.605 gain less than min_delta
    assert [projections.observe(score) for score in scores] == [False] * 6 + [True]
    assert (projections.best_score, projections.stale) == (0.6, 3)
    projections.project(pool)
    assert not projections.observe(0.01)  # the first score after a switch always counts as better
    assert projections.best_score == 0.01


def test_project_anchors_at_the_best_and_continues_from_the_current_weights():
    model, criterion, projections = setup(patience=1, strength=0.3, decay=0.5)
    projections.start(pool)
    projections.observe(0.5)
    best, best_proxies = copy.deepcopy(model.state_dict()), criterion.proxies.detach().clone()
    for p in [*model.parameters(), criterion.proxies]:
        p.data.add_(torch.randn_like(p))
    current = copy.deepcopy(model.state_dict())
    assert projections.observe(0.4)
    points = pool()
    projections.project(lambda: points)
    assert torch.equal(criterion.proxies, picks(points, best_proxies))
    assert all(torch.equal(x, current[name]) for name, x in model.state_dict().items())
    assert projections.strength_now == 0.15
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    projections.pull()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, 0.15 * (current[name] - best[name]))
    projections.observe(0.1)
    projections.project(pool)
    assert (projections.instance, projections.strength_now) == (2, 0.075)


def test_rewind_starts_from_the_best_weights_and_statistics():
    model, _, projections = setup(patience=1, rewind=True)
    projections.start(pool)
    projections.observe(0.5)
    best = copy.deepcopy(model.state_dict())
    model(torch.randn(16, 5))  # moves the running statistics
    for p in model.parameters():
        p.data.add_(1)
    assert projections.observe(0.4)
    at_pool = []
    projections.project(lambda: at_pool.append(copy.deepcopy(model.state_dict())) or pool())
    for state in (model.state_dict(), at_pool[0]):
        assert all(torch.equal(x, best[name]) for name, x in state.items())


def test_k_center_in_lipschitz_space_stores_raw_points():
    _, criterion, projections = setup(space="lipschitz")
    points = 10 * pool()
    projections.start(lambda: points)
    chosen = greedy_k_center(lipschitz_normalize(points), torch.zeros(C, 1, D), K)
    assert torch.equal(criterion.proxies, points.take_along_dim(chosen[:, :, None], 1))
    assert not torch.equal(chosen, greedy_k_center(points, torch.zeros(C, 1, D), K))


@pytest.mark.parametrize("reset", [False, True])
def test_optimizer_state_of_the_proxies_is_kept_or_dropped(reset):
    model, criterion, projections = setup(reset_proxy_state=reset)
    optimizer = torch.optim.Adam([*model.parameters(), criterion.proxies])
    projections.start(pool)
    train_step(model, criterion, projections, optimizer)
    projections.observe(0.1)
    projections.project(pool, optimizer)
    assert (criterion.proxies in optimizer.state) is not reset
    assert model[0].weight in optimizer.state
    train_step(model, criterion, projections, optimizer)


def test_resetting_the_proxy_state_needs_the_optimizer_of_the_proxies():
    model, criterion, projections = setup(reset_proxy_state=True)
    projections.start(pool)
    projections.observe(0.1)
    before = criterion.proxies.detach().clone()
    for optimizer, got in ((None, "none"), (torch.optim.SGD(model.parameters()), "1 without them")):
        with pytest.raises(ValueError, match=f"reset_proxy_state: expected the optimizer of the proxies, got {got}"):
            projections.project(pool, optimizer)
    assert torch.equal(criterion.proxies, before)
    assert projections.instance == 0


def run(model, criterion, projections, optimizer, scores):
    for score in scores:
        train_step(model, criterion, projections, optimizer)
        if projections.observe(score):
            projections.project(pool)


def test_resumed_run_equals_an_uninterrupted_one():
    scores = [0.1, 0.3, 0.2, 0.25, 0.2, 0.1, 0.15, 0.4, 0.2]
    parts = model, criterion, projections = setup(patience=2, strength=0.1)
    optimizer = torch.optim.Adam([*model.parameters(), criterion.proxies], lr=0.1)
    projections.start(pool)
    run(*parts, optimizer, scores[:6])
    assert (projections.instance, projections.stale) == (1, 1)
    file = io.BytesIO()
    torch.save([*(part.state_dict() for part in parts), optimizer.state_dict(), torch.get_rng_state()], file)
    run(*parts, optimizer, scores[6:])

    file.seek(0)
    states = torch.load(file, weights_only=True)
    again = model_, criterion_, _ = setup(patience=2, strength=0.1)
    optimizer_ = torch.optim.Adam([*model_.parameters(), criterion_.proxies], lr=0.1)
    for part, state in zip([*again, optimizer_], states, strict=False):
        part.load_state_dict(state)
    torch.set_rng_state(states[-1])
    run(*again, optimizer_, scores[6:])
    for name, x in model.state_dict().items():
        assert torch.equal(x, model_.state_dict()[name]), name
    assert torch.equal(criterion.proxies, criterion_.proxies)


def test_state_dict_is_a_copy():
    model, _, projections = setup(patience=1)
    projections.start(pool)
    projections.observe(0.5)
    state = projections.state_dict()
    for p in model.parameters():
        p.data.add_(1)
    projections.observe(0.6)
    assert state["best_score"] == 0.5
    assert not torch.equal(state["best"]["0.weight"], projections.state_dict()["best"]["0.weight"])


def test_failing_pool_changes_nothing():
    _, criterion, projections = setup(patience=1)
    projections.start(pool)
    projections.observe(0.5)
    projections.observe(0.4)
    before, proxies = projections.state_dict(), criterion.proxies.detach().clone()
    with pytest.raises(ValueError, match="pool: expected finite embeddings"):
        projections.project(lambda: torch.full((C, B, D), torch.nan))
    assert torch.equal(criterion.proxies, proxies)
    assert projections.instance == before["instance"]
    projections.project(pool)
    assert projections.instance == 1


def test_options_are_given_whole_or_by_field():
    model, criterion, _ = setup()
    options = ProjectionOptions(strength=0.1, patience=7)
    assert AlternatingProjections(model, criterion, options).options == options
    assert AlternatingProjections(model, criterion, strength=0.1, patience=7).options == options
    with pytest.raises(ValueError, match=r"options: expected either options or fields, got both \(fields: patience\)"):
        AlternatingProjections(model, criterion, options, patience=7)
    for wrong in (2e-4, {"patience": 7}):
        with pytest.raises(ValueError, match=r"options: expected ProjectionOptions, got .*; pass such as patience=3"):
            AlternatingProjections(model, criterion, wrong)
    with pytest.raises(TypeError, match="'stength'"):
        AlternatingProjections(model, criterion, stength=0.1)
    with pytest.raises(ValueError, match="patience: expected an integer >= 1, got 0"):
        AlternatingProjections(model, criterion, patience=0)


def test_wrong_calls_raise():
    *_, projections = setup()
    with pytest.raises(RuntimeError, match=r"call start\(pool\) first"):
        projections.observe(0.1)
    with pytest.raises(ValueError, match=r"pool: expected floating point \(4, b, 3\), got .* \(4, 6, 2\)"):
        projections.start(lambda: torch.randn(C, B, 2))
    with pytest.raises(
        ValueError, match=r"pool: expected at least 2 \(proxies_per_class\) points of each class, got 1"
    ):
        projections.start(lambda: torch.randn(C, 1, D))
    projections.start(pool)
    with pytest.raises(RuntimeError, match="call observe"):
        projections.project(pool)
    for bad in (float("nan"), float("inf"), None, "0.5"):
        with pytest.raises(ValueError, match="score: expected a finite number"):
            projections.observe(bad)


def test_state_of_another_model_raises():
    *_, projections = setup()
    projections.start(pool)
    projections.observe(0.5)
    state = projections.state_dict()
    other = AlternatingProjections(nn.Linear(5, D), CCPLoss(ContrastiveLoss(), C, D, K))
    with pytest.raises(ValueError, match=r"state\['best'\]"):
        other.load_state_dict(state)
    with pytest.raises(ValueError, match="none for \\['instance'\\]"):
        other.load_state_dict({key: value for key, value in state.items() if key != "instance"})


def test_states_of_other_types_are_named_and_change_nothing():
    *_, projections = setup()
    projections.start(pool)
    projections.observe(0.5)
    state = projections.state_dict()
    for wrong in (None, [], "state", nn.Linear(1, 1)):
        with pytest.raises(ValueError, match=r"^state: expected what state_dict\(\) returned, got \w+$"):
            projections.load_state_dict(wrong)
    for name in state:
        for wrong in ("no", object(), [torch.zeros(1)], {"0.weight": 1.0}, torch.nan):
            with pytest.raises(ValueError, match=rf"^state\['{name}'\]: expected "):
                projections.load_state_dict({**state, name: wrong})
    assert (projections.best_score, projections.instance, projections.started) == (0.5, 0, True)
    projections.load_state_dict({**state, "strength_now": 0.1})  # of an older version, which kept what options say
    assert projections.strength_now == 0


def test_failing_pool_undoes_the_rewind():
    model, _, projections = setup(patience=1, rewind=True)
    projections.start(pool)
    projections.observe(0.5)
    for p in model.parameters():
        p.data.add_(1)
    current = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="finite"):
        projections.project(lambda: torch.full((C, B, D), torch.nan))
    assert all(torch.equal(x, current[name]) for name, x in model.state_dict().items())


class Changing(nn.Module):
    """A network whose bank and whose layers change while it is trained."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(5, D))
        self.register_buffer("bank", torch.empty(0), persistent=False)


@pytest.mark.parametrize("rewind", [False, True])
def test_buffers_and_layers_may_change_in_training(rewind):
    model, criterion = Changing(), CCPLoss(ContrastiveLoss(), C, D, K)
    projections = AlternatingProjections(model, criterion, patience=1, strength=1.0, rewind=rewind)
    projections.start(pool)
    projections.observe(0.5)
    weight = model.layers[0].weight.detach().clone()
    model.bank = torch.ones(4, D)  # as many as the first batch has
    model.layers.append(nn.Linear(D, D))
    added = model.layers[1].weight.detach().clone()
    model.layers[0].weight.data.add_(1)
    projections.observe(0.4)
    projections.project(pool)
    assert torch.equal(model.layers[0].weight, weight + (not rewind))
    assert torch.equal(model.layers[1].weight, added)  # it has no best copy to return to, nor an anchor
    assert torch.equal(model.bank, torch.ones(4, D))
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    projections.pull()
    torch.testing.assert_close(model.layers[0].weight.grad, torch.full((D, 5), float(not rewind)))
    assert model.layers[1].weight.grad.count_nonzero() == 0

    projections.observe(0.3)
    model.bank = torch.zeros(9, D)
    projections.observe(0.6)
    again = Changing()  # its bank is empty yet
    again.layers.append(nn.Linear(D, D))
    other = AlternatingProjections(again, CCPLoss(ContrastiveLoss(), C, D, K), rewind=rewind)
    other.load_state_dict(projections.state_dict())
    other.project(pool)
    assert torch.equal(again.layers[1].weight, added) is rewind


def test_loading_a_state_drops_captured_weights():
    model, _, projections = setup(rewind=True)
    projections.start(pool)
    projections.capture()
    projections.load_state_dict(projections.state_dict())
    model[0].weight.data.add_(1)
    current = model[0].weight.detach().clone()
    projections.observe(0.5)
    projections.project(pool)
    assert torch.equal(model[0].weight, current)


def test_captured_weights_are_the_ones_kept():
    model, _, projections = setup(patience=1, rewind=True)
    projections.start(pool)
    scored = copy.deepcopy(model.state_dict())
    projections.capture()
    for p in model.parameters():
        p.data.add_(1)
    projections.observe(0.5)
    projections.capture()
    projections.observe(0.4)
    projections.project(pool)
    assert all(torch.equal(x, scored[name]) for name, x in model.state_dict().items())
