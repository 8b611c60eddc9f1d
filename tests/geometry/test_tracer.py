"""How the tracer describes single operations, modules that cannot be traced, and mistakes."""

from dataclasses import replace
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fullconv.errors import NetworkError
from fullconv.geometry import IDENTITY, Geometry, chain, crop_between, trace, trace_network

EXAMPLE = torch.zeros(1, 4, 16, 24)


class Do(nn.Module):
    """A network that is one function."""

    def __init__(self, function, **children) -> None:
        super().__init__()
        self.function = function
        for name, child in children.items():
            setattr(self, name, child)

    def forward(self, x):
        return self.function(self, x)


def of(function, **children) -> Geometry:
    return trace(Do(function, **children), EXAMPLE)


conv = nn.Conv2d(4, 4, (3, 5), padding=(1, 2))  # uneven, so that rows taken for columns are noticed
CONV = chain([conv])
down = nn.Conv2d(4, 4, 3, stride=2, padding=1)


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: F.relu(m.conv(x)),
        lambda m, x: m.conv(x).clamp(0, 1).mul_(2) + 1,
        lambda m, x: 1 - torch.sigmoid(m.conv(x)) / x.shape[1],
        lambda m, x: F.dropout(m.conv(x), 0.5, m.training),
        lambda m, x: m.conv(x) * torch.ones(1, 4, 1, 1),
        lambda m, x: torch.cat([x, m.conv(x)], 1),
        lambda m, x: torch.stack([x, m.conv(x)]).sum(0),
        lambda m, x: torch.cat(m.conv(x).chunk(2, 1), dim=-3),
        lambda m, x: torch.softmax(m.conv(x), 1),
        lambda m, x: F.normalize(m.conv(x)),
        lambda m, x: m.conv(x).amax(1, keepdim=True) + x,
        lambda m, x: torch.maximum(m.conv(x), x),
        lambda m, x: torch.zeros_like(m.conv(x)) + round(x.shape[1] / 2),
        lambda m, x: torch.where(x > 0, m.conv(x), 0),
        lambda m, x: torch.max(m.conv(x), x),
        lambda m, x: m.conv(x).max(dim=1)[0],
        lambda m, x: m.conv(x)[:, :2],
        lambda m, x: m.conv(x)[0],
        lambda m, x: m.conv(x)[..., None][..., 0],
        lambda m, x: m.conv(x).squeeze(0).unsqueeze(0),
        lambda m, x: m.conv(x).expand(2, -1, -1, -1),
        lambda m, x: m.conv(x).repeat(1, 2, 1, 1),
        lambda m, x: F.layer_norm(m.conv(x).permute(0, 2, 3, 1), (4,)).permute(0, 3, 1, 2),
        lambda m, x: m.linear(m.conv(x).movedim(1, -1)).movedim(-1, 1),
        lambda m, x: m.linear(m.conv(x).flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, x.shape[2:]),
        lambda m, x: m.conv(x).view(1, 2, 2, *x.shape[2:]).transpose(1, 2).reshape(x.shape),
        lambda m, x: torch.einsum("nchw,ck->nkhw", m.conv(x), m.linear.weight),
        lambda m, x: m.conv(x).flip(1).roll(1, 1),
        lambda m, x: F.conv2d(x, m.conv.weight * 2, m.conv.bias, padding=(1, 2)),
    ],
)
def test_what_works_cell_by_cell_adds_nothing(function):
    found = of(function, conv=conv, linear=nn.Linear(4, 4))
    assert (found.bounded, found.y.jump, found.y.offset) == (True, 1, 0)
    assert (found.y.rf_start, found.y.rf_end) == (-1, 1)
    assert (found.x.rf_start, found.x.rf_end) == (-2, 2)


@pytest.mark.parametrize(
    ("function", "what"),
    [
        (lambda m, x: x * x.mean((2, 3), keepdim=True), "global average pooling"),
        (lambda m, x: x * F.adaptive_avg_pool2d(x, 1), "global average pooling"),
        (lambda m, x: x * F.avg_pool2d(x, x.shape[2:]), "global pooling"),
        (lambda m, x: x * x.amax((2, 3))[:, :, None, None], "global maximum pooling"),
        (lambda m, x: x - x.sum(3, keepdim=True), "a sum over positions"),
        (lambda m, x: x - x.mean(axis=3, keepdim=True), "global average pooling"),
        (lambda m, x: F.adaptive_max_pool2d(x, (2, 2)), "adaptive maximum pooling to (2, 2)"),
        (lambda m, x: x / x.norm(dim=(2, 3), keepdim=True), "norm over positions"),
        (lambda m, x: torch.softmax(x, -1), "softmax over positions"),
        (lambda m, x: F.group_norm(x, 2), "group norm over positions"),
        (lambda m, x: F.instance_norm(x), "instance norm over positions"),
        (lambda m, x: F.layer_norm(x, x.shape[1:]), "a norm over positions"),
        (lambda m, x: m.norm(x), "group norm over positions"),
        (lambda m, x: m.mix(x), "features of all positions are mixed"),
        (lambda m, x: x.flatten(1), "positions become features"),
        (lambda m, x: m.flat(x), "positions become features"),
        (lambda m, x: m.conv(x.transpose(1, 3)), "a convolution that mixes all positions"),
        (lambda m, x: x.flatten(2) @ x.flatten(2).transpose(1, 2), "attention over positions"),
        (lambda m, x: torch.einsum("nchw,nchv->nwv", x, x), "attention over positions"),
        (lambda m, x: attend(x), "attention over positions"),
        (lambda m, x: F.pad(x, (1, 1, 1, 1), mode="circular"), "circular padding"),
        (lambda m, x: m.circular(x), "circular padding"),
    ],
)
def test_what_sees_the_whole_image_is_named(function, what):
    parts = {"norm": nn.GroupNorm(2, 4), "mix": nn.Linear(24, 24), "flat": nn.Flatten(), "conv": nn.Conv2d(24, 4, 1)}
    circular = nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular")
    found = of(function, **parts, circular=circular)
    assert not found.bounded
    (name,) = {*found.global_ops, *found.unknown_ops}
    assert name.endswith(f": {what})") or name == f"Do: {what}"
    assert found.receptive_field is None


def attend(x):
    tokens = x.flatten(2).transpose(1, 2)
    return F.scaled_dot_product_attention(tokens, tokens, tokens).transpose(1, 2).reshape(x.shape)


def test_a_gate_keeps_the_map_that_it_multiplies():
    found = of(lambda m, x: m.fc(x.mean((2, 3), keepdim=True)) * m.down(x), down=down, fc=nn.Conv2d(4, 4, 1))
    assert found.global_ops == ("Do: global average pooling",)
    assert replace(found, global_ops=()) == chain([down])


@pytest.mark.parametrize(
    ("function", "what"),
    [
        (lambda m, x: torch.fft.fft2(x).real, "no geometry rule for fft_fft2"),
        (lambda m, x: F.unfold(x, 3), "no geometry rule for unfold"),
        (
            lambda m, x: F.grid_sample(x, torch.zeros(1, 8, 8, 2), align_corners=False),
            "no geometry rule for grid_sample",
        ),
        (lambda m, x: m.lstm(x.mean(1).transpose(1, 2))[0], "no geometry rule for this layer"),
        (lambda m, x: x + x.transpose(2, 3)[:, :, :16].repeat(1, 1, 1, 2)[..., :24], "repeat"),
        (lambda m, x: x[:, :, :16, :16] + x[:, :, :16, :16].transpose(2, 3), "add of rows with columns"),
        (lambda m, x: torch.cat([x, x], 2), "joins maps along rows or columns"),
        (lambda m, x: x.flip(3), "flip of rows or columns"),
        (lambda m, x: x.roll(1, 2), "roll of rows or columns"),
        (lambda m, x: x[:, :, 3], "picks one row or column"),
        (lambda m, x: x.split(8, 2)[0], "split of rows or columns"),
        (lambda m, x: x[:, :, torch.arange(4)], "indexing by a tensor or list"),
        (lambda m, x: x.view(1, 4, 2, -1, 24), "view that cuts up rows and columns"),
        (lambda m, x: F.interpolate(x, scale_factor=0.5, mode="area"), "area interpolation"),
        (lambda m, x: F.interpolate(x, scale_factor=0.5, mode="bilinear", antialias=True), "with antialias"),
        (lambda m, x: F.interpolate(x, scale_factor=1.2345678), r"resizing by 1.2345678"),
        (lambda m, x: x * 2 if x.mean() < 5 else x, "a decision by the image's contents"),
        (lambda m, x: x * 2 if x.mean() > 5 else x, "a decision by the image's contents"),
        (lambda m, x: x * x.mean().item(), "numbers from the image (item)"),
        (lambda m, x: x * float(x.mean()), "a decision by the image's contents"),
        (lambda m, x: x * x.mean().tolist(), "numbers from the image (tolist)"),
        (lambda m, x: torch.cat([x, x], axis=2), "joins maps along rows or columns"),
    ],
)
def test_an_operation_without_a_rule_is_named_and_unbounded(function, what):
    found = of(function, lstm=nn.LSTM(16, 16))
    assert not found.bounded
    assert any(what in entry for entry in found.unknown_ops), found.unknown_ops


def test_an_unknown_operation_stays_in_everything_behind_it():
    found = of(lambda m, x: m.conv(torch.fft.fft2(x).real) + x, conv=conv)
    assert found.unknown_ops == ("Do: no geometry rule for fft_fft2", "Do: no geometry rule for real")


def test_blocks_of_a_fixed_size_are_read_as_blocks():
    def to_depth(m, x):
        n, c, h, w = x.shape
        x = x.view(n, c, h // 4, 4, w // 4, 4)
        return x.permute(0, 3, 5, 1, 2, 4).reshape(n, c * 16, h // 4, w // 4)

    assert of(to_depth) == chain([nn.Conv2d(4, 4, 4, 4)]) == of(lambda m, x: F.pixel_unshuffle(x, 4))


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: F.pad(x, (0, 0, -x.shape[2] % 5, 0)),
        lambda m, x: F.interpolate(x, size=(32, 48), mode="bilinear"),
        lambda m, x: F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True),
        lambda m, x: x[:, :, -8:],
        lambda m, x: x[:, :, x.shape[2] // 4 :],
        lambda m, x: x.narrow(3, x.shape[3] // 4, 3),
        lambda m, x: x + m.position,
        lambda m, x: x * 2 if x.shape[2] % 16 else x,
        lambda m, x: F.conv2d(x, m.conv.weight, None, 1, max(x.shape[2] // 16, 1)),
        lambda m, x: x * int(x.shape[3]),
        lambda m, x: x / x.shape[3],
        lambda m, x: torch.zeros_like(x) + round(x.shape[2] / 2),
        lambda m, x: x + torch.full((1, 1, 1, 1), x.shape[2]),
        lambda m, x: x * m.position[:, :, x.shape[2] // 4, 0, None, None],
        lambda m, x: x[:, :, :8],
        lambda m, x: F.pad(x, (0, 1), value=x.shape[2]),
        lambda m, x: x[..., : min(x.shape[2:])],
    ],
)
def test_what_depends_on_the_size_is_named(function):
    found = of(function, conv=conv, position=nn.Parameter(torch.zeros(1, 4, 16, 24)))
    assert len(found.size_dependent) == 1
    assert found.size_dependent[0].startswith("Do: ")
    assert not found.unknown_ops
    assert not found.bounded


def test_padding_behind_and_cutting_behind_may_depend_on_the_size():
    found = of(lambda m, x: F.pad(x, (0, -x.shape[3] % 32, 0, -x.shape[2] % 32))[:, :, : x.shape[2], : x.shape[3]])
    assert found == IDENTITY


def test_assertions_and_questions_about_rank_and_channels_decide_nothing():
    def careful(m, x):
        assert x.ndim == 4
        assert x.dim() == 4
        assert x.shape[1] == 4, f"{x.shape}"
        torch._assert(x.shape[2] % 2 == 0, "even")
        return m.conv(x) if len(x.shape) == 4 and x.is_floating_point() else x

    assert of(careful, conv=conv) == CONV


def test_a_crop_shifts_and_a_step_strides():
    found = of(lambda m, x: m.conv(x)[:, :, 5:, 1:-1:2], conv=conv)
    assert found.y == CONV.y.crop(5)
    assert found.x == CONV.x.crop(1).conv(1, 2)
    assert crop_between(found.y, CONV.y) == 5


@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "bilinear", "bicubic"])
def test_resizing_by_a_factor_is_followed(mode):
    found = of(lambda m, x: F.interpolate(m.down(x), scale_factor=2, mode=mode), down=down)
    before = chain([down]).y
    assert found.bounded
    assert (found.y.jump, found.y.offset) == (1, Fraction(-1, 2))
    cells = {"nearest": (Fraction(1, 2), 0), "nearest-exact": (Fraction(1, 2), 0)}
    less, more = cells.get(mode, (Fraction(3, 2), 1) if mode == "bicubic" else (1, Fraction(1, 2)))
    if mode.startswith("nearest"):
        assert (found.y.rf_start, found.y.rf_end) == (before.rf_start - 2 * less, before.rf_end + 2 * more)
    else:
        assert found.y == before.resize(Fraction(2), mode)


def test_branches_with_different_centres_are_named_with_their_misalignment():
    found = of(lambda m, x: m.down(x) + m.pool(x), down=down, pool=nn.AvgPool2d(2))
    assert found.misalignments == (("add", Fraction(1, 2)),)
    assert (found.y.offset, found.y.misalignment) == (Fraction(1, 4), Fraction(1, 2))
    assert (found.y.rf_start, found.y.rf_end) == (-1, 1)
    assert found.bounded


def test_branches_with_different_strides_are_refused_by_name():
    with pytest.raises(NetworkError, match=r"inner \(mul\): branches with strides of 1 and 2 pixels meet"):
        of(lambda m, x: m.inner(x), inner=Do(lambda m, x: x[:, :, :8, :12] * m.down(x), down=down))


def test_writing_in_place_changes_the_value_itself():
    def add(m, x):
        y = x * 1
        y.add_(m.conv(x))
        return y

    assert of(add, conv=conv) == CONV


def test_writing_through_a_view_is_unknown():
    def add(m, x):
        y = x * 1
        y[:, :2].add_(m.conv(x)[:, :2])
        return y

    found = of(add, conv=conv)
    assert (found.y, found.unknown_ops) == (CONV.y, ("Do: writes into a view",))


class Phase(nn.Module):
    """Describes itself: shifts by a cell and a half."""

    def forward(self, x, *others):
        return x

    def trace_geometry(self, geometry, *others):
        assert all(isinstance(other, Geometry) for other in others)
        return geometry.each(lambda axis: axis.crop(Fraction(3, 2) + len(others)))


def test_a_module_that_describes_itself_is_asked_and_not_traced_through():
    network = Do(lambda m, x: m.phase(m.conv(x)), phase=Phase(), conv=conv)
    assert trace(network, EXAMPLE) == CONV.each(lambda axis: axis.crop(Fraction(3, 2)))
    assert [row.op for row in trace_network(network, EXAMPLE).layers] == ["input", "Conv2d", "Phase"]
    assert chain([conv, Phase()]) == trace(network, EXAMPLE)
    two = of(lambda m, x: m.phase(x, m.conv(x)), phase=Phase(), conv=conv)
    assert two.y.offset == Fraction(5, 2)


def test_a_subclass_with_its_own_forward_is_not_taken_for_its_base():
    class Doubled(nn.Conv2d):
        def forward(self, x):
            return super().forward(super().forward(x))

    class Named(nn.Conv2d):
        pass

    assert trace(Doubled(4, 4, 3), EXAMPLE).receptive_field == 5
    assert trace(Named(4, 4, 3), EXAMPLE) == chain([Named(4, 4, 3)]) == chain([nn.Conv2d(4, 4, 3)])
    assert chain([Doubled(4, 4, 3)]).unknown_ops == ("0 (Doubled: no geometry rule for this layer)",)


def test_a_module_that_cannot_be_traced_is_named_and_the_rest_is_traced():
    def write(m, x):
        y = torch.zeros_like(x)
        y[:, :1] = x[:, :1]
        return y

    found = of(lambda m, x: m.conv(m.inner(x)), inner=Do(write), conv=conv)
    (entry,) = found.unknown_ops
    assert entry.startswith("inner (Do: cannot be traced: ")
    assert "item assignment" in entry
    with pytest.raises(NetworkError, match=r"^Do cannot be traced: .*item assignment"):
        of(write)


def test_a_tensor_that_leaves_an_opaque_module_by_a_side_door_is_unknown():
    kept = []

    def leak(m, x):
        y = x.clone()
        y[:, :1] = 0
        kept.append(y)
        return y

    def use(m, x):
        m.inner(x)
        return kept[-1]

    found = of(use, inner=Do(leak))
    assert found.unknown_ops == ("a tensor of unknown origin",)


def test_an_example_that_does_not_fit_is_refused_with_the_layer():
    with pytest.raises(
        NetworkError, match=r"^0 \(Conv2d\) cannot run on an example of shape \(1, 4, 16, 24\): .*channels"
    ):
        trace(nn.Sequential(nn.Conv2d(3, 4, 3)), EXAMPLE)
    with pytest.raises(NetworkError, match=r"^matmul in Do cannot run on an example of shape \(1, 4, 16, 24\)"):
        of(lambda m, x: x @ x)


def test_the_layer_table_lists_every_value_in_order():
    network = nn.Sequential(nn.Conv2d(4, 8, 3, stride=2, padding=1), nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)))
    rows = trace_network(network, EXAMPLE).layers
    assert [(row.path, row.op, row.shape) for row in rows] == [
        ("", "input", (1, 4, 16, 24)),
        ("0", "Conv2d", (1, 8, 8, 12)),
        ("1.0", "ReLU", (1, 8, 8, 12)),
        ("1.1", "MaxPool2d", (1, 8, 4, 6)),
    ]
    assert [row.geometry.stride for row in rows] == [1, 2, 2, 4]
    assert rows[0].geometry == IDENTITY
    assert rows[-1].geometry == trace(network, EXAMPLE) == chain(network)


def test_the_result_has_the_form_of_the_networks_output():
    found = of(lambda m, x: {"out": m.conv(x), 8: [x, (x * 2, torch.ones(3))]}, conv=conv)
    assert found == {"out": CONV, 8: [IDENTITY, (IDENTITY, None)]}


def test_hooks_on_layers_are_followed():
    kept = {}
    network = nn.Sequential(conv, nn.ReLU())
    handle = network[0].register_forward_hook(lambda module, inputs, output: kept.update(out=output))
    found = trace(Do(lambda m, x: (m.net(x), kept["out"]), net=network), EXAMPLE)
    handle.remove()
    assert found == (CONV, CONV)
    handle = network[0].register_forward_hook(lambda module, inputs, output: output.mean((2, 3)))
    assert trace(network, EXAMPLE).global_ops == ("0 (Conv2d: global average pooling)",)
    handle.remove()


def test_tracing_leaves_the_network_as_it_was():
    network = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Dropout())
    network[1].eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    example = torch.randn(1, 4, 8, 8)
    kept = example.clone()
    trace(nn.Sequential(nn.ReLU(inplace=True), network), example)
    assert [module.training for module in network] == [True, False, True]
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert torch.equal(example, kept)


def test_a_chain_names_the_layers_that_end_its_bound():
    found = chain([nn.Conv2d(4, 4, 3), nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1)), nn.Bilinear(1, 1, 1)])
    assert found.global_ops == ("1.1 (AdaptiveAvgPool2d: global average pooling)",)
    assert found.unknown_ops == ("2 (Bilinear: no geometry rule for this layer)",)
    assert chain([nn.Upsample(size=(8, 8))]).unknown_ops == ("0 (Upsample: resizing to a given size)",)
