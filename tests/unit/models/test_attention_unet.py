"""The network on tiny images: any size, every option, folding, and what its config refuses."""

from typing import Any

import pytest
import torch
from torch import nn

from models.attention_unet import AttentionUNet
from models.config import AttentionUNetConfig

TINY: dict[str, Any] = {"widths": (8, 16), "attention_levels": (1,)}


def trained(**fields: Any) -> AttentionUNet:
    """Return a network in eval mode whose gammas and BatchNorms are not those of a new one."""
    torch.manual_seed(0)
    model = AttentionUNet(AttentionUNetConfig(**{**TINY, **fields}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("gamma", "norm.weight", "norm.bias")):
                parameter.uniform_(0.5, 1.5)
        for _ in range(3):  # moves the running statistics towards those of images
            model(torch.rand(4, model.config.in_channels, 16, 16))
    return model.eval()


def test_default_network_is_small() -> None:
    """The default network has at most 2.1 million parameters, and attention where it has 256 channels."""
    model = AttentionUNet()
    assert sum(p.numel() for p in model.parameters()) <= 2_100_000
    assert list(model.attention) == ["level4"]
    assert model.config.stride == 16


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 2), (5, 3), (8, 8), (13, 31)])
def test_any_size(size: tuple[int, int]) -> None:
    """Logits have the height and width of the image, whatever they are."""
    model = trained(widths=(8, 8, 16), attention_levels=(2,), classes=3)
    assert model(torch.rand(2, 3, *size)).shape == (2, 3, *size)


def test_padding_repeats_the_edge() -> None:
    """An image of odd size is scored as if its last row and column went on."""
    model = trained()
    image = torch.rand(1, 3, 7, 5)
    longer = torch.cat([image, image[:, :, -1:]], dim=2)
    longer = torch.cat([longer, longer[:, :, :, -1:]], dim=3)
    assert model(image).std() > 0.01
    assert torch.equal(model(image), model(longer)[:, :, :7, :5])


@pytest.mark.parametrize(("in_channels", "classes"), [(1, 2), (4, 3), (64, 256)])
def test_channels_and_classes(in_channels: int, classes: int) -> None:
    """Input channels and classes are what the config says."""
    model = trained(in_channels=in_channels, classes=classes)
    assert model(torch.rand(1, in_channels, 4, 4)).shape == (1, classes, 4, 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("heads", [1, 2])
def test_statistics_leave_the_logits(dtype: torch.dtype, heads: int) -> None:
    """Asking for statistics changes no bit of the logits, and every block reports under its level's name."""
    model = trained(widths=(16, 16, 32), attention_levels=(2, 1), heads=heads).to(dtype)
    x = torch.rand(2, 3, 17, 30).to(dtype=dtype, memory_format=torch.channels_last)
    with torch.inference_mode():
        logits, statistics = model.forward_with_statistics(x)
        assert torch.equal(logits, model(x))
    assert list(statistics) == ["level1", "level2"]
    assert statistics["level1"].received.shape == (2, heads, 10, 16)
    assert statistics["level2"].received.shape == (2, heads, 5, 8)


def test_network_without_attention() -> None:
    """With no attended level the network is a plain U-Net and reports nothing."""
    model = trained(attention_levels=())
    assert model.forward_with_statistics(torch.rand(1, 3, 4, 4))[1] == {}


def test_one_level() -> None:
    """A network of one level has no decoder, and still scores every pixel."""
    model = trained(widths=(8,), attention_levels=(0,))
    assert model(torch.rand(1, 3, 3, 5)).shape == (1, 2, 3, 5)


def test_skip_gates() -> None:
    """Gates are extra weights in every decoder level, change the logits, and are trained."""
    plain, gated = trained(), trained(skip_gates=True)
    assert len(gated.state_dict()) > len(plain.state_dict())
    gated.load_state_dict(plain.state_dict(), strict=False)
    x = torch.rand(1, 3, 6, 6)
    assert not torch.equal(plain(x), gated(x))
    gated(x).sum().backward()
    assert all(p.grad is not None for p in gated.parameters())


@pytest.mark.parametrize("skip_gates", [False, True])
def test_folding_keeps_the_logits(skip_gates: bool) -> None:
    """The folded copy has no BatchNorm, gives the same logits, and leaves the model as it was."""
    model = trained(skip_gates=skip_gates).train()
    folded = model.folded()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert model.training
    assert any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    x = torch.rand(2, 3, 16, 16)
    with torch.inference_mode():
        torch.testing.assert_close(folded(x), model.eval()(x), rtol=1e-4, atol=1e-4)
        assert torch.equal(folded.folded()(x), folded(x))


def test_gradients_reach_every_weight() -> None:
    """A step of training moves every weight of the network, attention included."""
    model = trained().train()
    model(torch.rand(2, 3, 8, 8)).square().mean().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert all(
        p.grad.abs().sum() > 0 for p in model.attention.parameters() if p.grad is not None and p.ndim != 1
    )


@pytest.mark.parametrize(
    ("fields", "levels"),
    [
        ({}, (4,)),
        ({"widths": (256, 16, 256)}, (2,)),
        ({"widths": (8, 16)}, ()),
        ({"attention_levels": (3, 1)}, (1, 3)),
        ({"attention_levels": ()}, ()),
    ],
)
def test_attended_levels(fields: dict[str, Any], levels: tuple[int, ...]) -> None:
    """Without a choice the deepest level of 256 channels is attended, if there is one."""
    assert AttentionUNetConfig(**fields).attended_levels == levels


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"in_channels": 0}, "in_channels must be a whole number from 1 to 64, got 0"),
        ({"in_channels": 65}, "in_channels"),
        ({"in_channels": True}, "in_channels"),
        ({"in_channels": 3.0}, "in_channels"),
        ({"classes": 1}, "classes must be a whole number from 2 to 256, got 1"),
        ({"classes": 257}, "classes"),
        ({"classes": "2"}, "classes"),
        ({"widths": ()}, "number of widths"),
        ({"widths": (8,) * 9}, "number of widths must be a whole number from 1 to 8, got 9"),
        ({"widths": [8, 16]}, "widths must be a list of whole numbers"),
        ({"widths": (8, 0)}, "width"),
        ({"widths": (8, 4097)}, "width must be a whole number from 1 to 4096"),
        ({"widths": (8, None)}, "width"),
        ({"attention_levels": (5,)}, "attention level must be a whole number from 0 to 4, got 5"),
        ({"attention_levels": (-1,)}, "attention level"),
        ({"attention_levels": 4}, "attention_levels must be a list"),
        ({"attention_levels": (4, 4)}, "attention_levels must differ"),
        ({"widths": (12, 24), "attention_levels": (0,)}, "level 0 with attention needs a multiple of 8"),
        ({"heads": 3}, "level 4 with attention needs a multiple of 8 x heads"),
        ({"heads": 0}, "heads"),
        ({"skip_gates": 1}, "skip_gates must be true or false, got 1"),
    ],
)
def test_config_is_checked_at_birth(fields: dict[str, Any], message: str) -> None:
    """A value of the wrong type or out of bounds is refused with its name and what was expected."""
    with pytest.raises(ValueError, match=message):
        AttentionUNetConfig(**fields)


@pytest.mark.parametrize("fields", [{}, {**TINY, "in_channels": 1, "heads": 2, "skip_gates": True}])
def test_config_round_trip(fields: dict[str, Any]) -> None:
    """A config survives the way through a dictionary of plain JSON values."""
    config = AttentionUNetConfig(**fields)
    as_dict = config.to_dict()
    assert not any(isinstance(value, tuple) for value in as_dict.values())
    assert AttentionUNetConfig.from_dict(as_dict) == config


def test_config_names_unknown_and_missing_keys() -> None:
    """A dictionary with other keys is refused, and the message names them."""
    fields = AttentionUNetConfig().to_dict()
    with pytest.raises(ValueError, match=r"unknown keys: .*'depth'"):
        AttentionUNetConfig.from_dict({**fields, "depth": 5})
    del fields["heads"]
    with pytest.raises(ValueError, match=r"lacks keys: .*'heads'"):
        AttentionUNetConfig.from_dict(fields)
