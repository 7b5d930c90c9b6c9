import pytest
import torch

from ccpml.models import SmallConv


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("size", "expected"), [((28, 28), (3, 3)), ((32, 32), (4, 4)), ((64, 47), (8, 5))])
def test_features_have_an_eighth_of_the_size(channels: int, size: tuple[int, int], expected: tuple[int, int]) -> None:
    model = SmallConv(channels, width=8)
    features = model(torch.rand(2, channels, *size))
    assert model.out_channels == 32
    assert features.shape == (2, 32, *expected)


def test_images_too_small() -> None:
    with pytest.raises(ValueError, match="at least 28 × 28 for small_conv, got 40 × 27"):
        SmallConv()(torch.zeros(1, 1, 40, 27))


def test_convention_has_the_channels() -> None:
    for channels in (1, 3):
        convention = SmallConv(channels).convention
        assert convention.channels == len(convention.mean) == len(convention.std) == channels


def test_learns_to_separate_two_patterns() -> None:
    stripes = torch.zeros(1, 32, 32)
    stripes[:, ::2] = 1
    images = torch.stack([stripes, stripes.mT] * 4) + 0.1 * torch.randn(8, 1, 32, 32)
    labels = torch.tensor([0, 1] * 4)
    model = torch.nn.Sequential(SmallConv(1, width=4), torch.nn.Flatten(), torch.nn.LazyLinear(2))
    model(images)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(10):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    assert torch.equal(model(images).argmax(1), labels)


@pytest.mark.gpu
def test_gpu_equals_cpu() -> None:
    model, images = SmallConv(3).eval(), torch.rand(2, 3, 32, 32)
    expected = model(images)
    torch.testing.assert_close(model.cuda()(images.cuda()).cpu(), expected, rtol=1e-2, atol=1e-2)
