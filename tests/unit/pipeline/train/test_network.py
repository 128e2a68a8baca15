"""Transfer: what of a checkpoint stays, what is new, and that it is said."""

import pytest
import torch
from torch import Tensor

from models import checkpoint
from models.attention_unet import AttentionUNet
from models.checkpoint import Checkpoint
from models.config import AttentionUNetConfig, Normalisation
from models.header import ClassInfo
from pipeline.errors import ConfigError
from pipeline.train.config import NetworkConfig
from pipeline.train.network import Plain, Supervised, adapt_channels, build, freeze_encoder

NAMES = ("background", "cell")


def stored(channels: int = 3, attention: tuple[int, ...] | None = None) -> Checkpoint:
    """Return a checkpoint with 256 channels at its coarsest level."""
    torch.manual_seed(0)
    config = AttentionUNetConfig(in_channels=channels, widths=(8, 256), attention_levels=attention)
    model = AttentionUNet(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    classes = (ClassInfo("background", (0, 0, 0)), ClassInfo("cell", (255, 0, 0)))
    normalisation = Normalisation(mean=(0.5,) * channels, std=(0.5,) * channels)
    return checkpoint.load(*checkpoint.dump(model, classes, normalisation, {}, torch.float32))


def logits(network: AttentionUNet, x: Tensor) -> Tensor:
    with torch.no_grad():
        scores: Tensor = network.eval()(x)
    return scores


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(1, 3, 16, 16)


def test_an_equal_task_keeps_every_weight(x: Tensor) -> None:
    """The same classes and channels: the network is the checkpoint's, and nothing needs saying."""
    start = stored()
    network, notes = build(NetworkConfig(), start, NAMES, seed=9)
    torch.testing.assert_close(logits(network, x), logits(start.model, x))
    assert notes == []


def test_other_classes_get_a_new_head(x: Tensor) -> None:
    """All but the head stays, and the note names both lists of classes."""
    start = stored()
    network, (note,) = build(NetworkConfig(), start, ("background", "cell", "debris"), seed=9)
    assert tuple(logits(network, x).shape) == (1, 3, 16, 16)
    assert "background, cell" in note
    assert "debris" in note
    kept = {name: tensor for name, tensor in start.model.state_dict().items() if "head" not in name}
    state = network.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in kept.items())


def test_attention_added_to_a_plain_network_changes_nothing_yet(x: Tensor) -> None:
    """A plain U-Net predicts as before, and its new block learns."""
    start = stored(attention=())
    network, (note,) = build(NetworkConfig(), start, NAMES, seed=9)
    assert "self-attention added at level 1" in note
    assert network.config.attended_levels == (1,)
    torch.testing.assert_close(logits(network, x), logits(start.model, x))
    network.train()(x).sum().backward()
    gamma = dict(network.named_parameters())["attention.level1.gamma"]
    assert gamma.grad is not None
    assert gamma.grad.abs() > 0


def test_attention_can_be_taken_out() -> None:
    """Without attention the block is gone, and the note says so."""
    network, (note,) = build(NetworkConfig(attention=False), stored(), NAMES, seed=9)
    assert not network.attention
    assert "taken out" in note


@pytest.mark.parametrize(("have", "want"), [(3, 1), (1, 3), (3, 4), (4, 3), (1, 4), (4, 1)])
def test_grey_images_give_what_they_gave(have: int, want: int) -> None:
    """A grey picture has equal channels: the adapted convolution answers it as the old one did."""
    torch.manual_seed(2)
    weight = torch.randn(5, have, 3, 3)
    if have == 4:
        weight[:, 3] = 0  # alpha was never looked at
    grey = torch.randn(2, 1, 9, 9)
    before = torch.nn.functional.conv2d(grey.expand(-1, have, -1, -1), weight)
    after = torch.nn.functional.conv2d(grey.expand(-1, want, -1, -1), adapt_channels(weight, want))
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)


def test_other_channels_are_said() -> None:
    """The network takes the images' channels, and the note names both numbers."""
    network, (note,) = build(NetworkConfig(channels=1), stored(), NAMES, seed=9)
    assert network.config.in_channels == 1
    assert "from 3 to 1" in note


def test_a_new_network_is_as_told() -> None:
    """Without a checkpoint the options are the network's, equal seeds give equal weights."""
    config = NetworkConfig(start="none", widths=(8, 16), channels=1, skip_gates=True)
    assert config.start is None
    one, two = (build(config, None, NAMES, seed=4)[0] for _ in range(2))
    assert one.config.widths == (8, 16)
    assert one.config.skip_gates
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_options_that_do_not_fit_are_refused() -> None:
    """The shape of a checkpoint's network cannot be chosen, and an impossible shape is named."""
    with pytest.raises(ConfigError, match="starts from a checkpoint"):
        build(NetworkConfig(widths=(8, 16)), stored(), NAMES, seed=0)
    with pytest.raises(ConfigError, match="width must be"):
        build(NetworkConfig(start="none", widths=(0, 16)), None, NAMES, seed=0)


def test_a_frozen_encoder_does_not_learn() -> None:
    """Gradients reach the decoder only, until it is thawed."""
    network = AttentionUNet(AttentionUNetConfig(widths=(8, 16), attention_levels=(1,)))
    freeze_encoder(network, True)
    network(torch.randn(2, 3, 16, 16)).sum().backward()
    assert all(p.grad is None for p in (*network.encoder.parameters(), *network.attention.parameters()))
    assert all(p.grad is not None for p in network.decoder.parameters())
    freeze_encoder(network, False)
    network(torch.randn(2, 3, 16, 16)).sum().backward()
    assert all(p.grad is not None for p in network.encoder.parameters())


def test_deep_supervision_adds_a_score_for_each_coarser_level() -> None:
    """The first logits are the network's own; each further head answers at full size; none is stored."""
    network = AttentionUNet(AttentionUNetConfig(widths=(8, 8, 16, 16), attention_levels=())).eval()
    x = torch.randn(1, 3, 32, 32)
    plain, (first, *coarse) = Plain(network)(x)[0], Supervised(network)(x)
    torch.testing.assert_close(first, plain)
    assert [tuple(c.shape) for c in coarse] == [(1, 2, 32, 32)] * 2
    assert set(network.state_dict()) == set(AttentionUNet(network.config).state_dict())
