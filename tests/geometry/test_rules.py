"""Windows, and the geometry of random chains of layers, against what these layers do."""

from dataclasses import replace

import pytest
import torch
from geometry_oracle import inside, place, reads, wrong
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import nn

from fullconv.geometry import WindowSpec, chain, trace
from fullconv.geometry.rules import as_function

SIZE = 40


class Crop(nn.Module):
    """Begins at a row and a column, and takes every n-th."""

    def __init__(self, top: int, left: int, step: int) -> None:
        super().__init__()
        self.top, self.left, self.step = top, left, step

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[..., self.top :: self.step, self.left : -1]


def pair(low: int, high: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(low, high), st.integers(low, high))


def conv(kernel, stride, padding, dilation) -> nn.Module:
    return nn.Conv2d(1, 1, kernel, stride, padding, dilation, bias=False)


def transposed(kernel, stride, padding) -> nn.Module:
    kernel = tuple(max(k, 2 * p + 1, s) for k, p, s in zip(kernel, padding, stride, strict=True))
    return nn.ConvTranspose2d(1, 1, kernel, stride, padding, bias=False)


def pool(kind, kernel, stride, ceil) -> nn.Module:
    padding = tuple(k // 2 for k in kernel)
    return kind(kernel, stride, padding, ceil_mode=ceil)


def plain_layers() -> st.SearchStrategy[nn.Module]:
    """Layers whose cells all read windows of one size."""
    return st.one_of(
        st.builds(conv, pair(1, 4), pair(1, 3), pair(0, 2), pair(1, 2)),
        st.builds(conv, st.sampled_from([1, 3, (5, 3)]), st.just(1), st.just("same"), pair(1, 2)),
        st.builds(pool, st.sampled_from([nn.MaxPool2d, nn.AvgPool2d]), pair(1, 3), pair(1, 2), st.booleans()),
        st.builds(nn.ZeroPad2d, st.tuples(*[st.integers(0, 3)] * 4)),
        st.sampled_from([nn.ReLU(), nn.Dropout(), nn.Identity()]),
    )


def cuts() -> st.SearchStrategy[nn.Module]:
    """Layers that leave the border out; behind others they would cut off what those have read."""
    return st.one_of(
        st.builds(Crop, st.integers(0, 3), st.integers(0, 3), st.integers(1, 2)),
        st.builds(nn.ZeroPad2d, st.tuples(*[st.integers(-2, 3)] * 4)),
    )


def growing_layers() -> st.SearchStrategy[nn.Module]:
    """Layers with several cells for one."""
    return st.one_of(
        st.builds(transposed, pair(1, 5), pair(1, 3), pair(0, 2)),
        st.builds(nn.Upsample, scale_factor=st.integers(2, 3), mode=st.sampled_from(["nearest", "bilinear"])),
        st.builds(nn.Upsample, scale_factor=st.just(0.5), mode=st.sampled_from(["nearest", "bilinear"])),
        st.builds(nn.Upsample, scale_factor=st.just(1.5), mode=st.just("bilinear")),
    )


def build(layers: list[nn.Module]) -> nn.Sequential:
    """Make a network that grows with every pixel it reads."""
    network = nn.Sequential(*layers).double().eval()
    for weight in network.parameters():
        nn.init.ones_(weight)
    return network


def shape_of(network: nn.Module) -> tuple[int, ...]:
    try:
        with torch.no_grad():
            return tuple(network(torch.zeros(1, 1, SIZE, SIZE, dtype=torch.float64)).shape)
    except RuntimeError:  # a map became too small for a window
        return (0, 0, 0, 0)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cuts(), st.lists(plain_layers(), max_size=4))
def test_the_ends_of_every_interval_are_read_and_nothing_beyond(cut, layers):
    network = build([cut, *layers])
    shape = shape_of(network)
    assume(min(shape) > 0)
    geometry = trace(network, torch.zeros(1, 1, SIZE, SIZE, dtype=torch.float64))
    assert geometry.bounded
    for dim, axis in ((2, geometry.y), (3, geometry.x)):
        assert wrong(axis, reads(network, SIZE, dim), tight=True) == []
        cells = [j for j in range(shape[dim]) if inside(axis, j, SIZE)]
        if not any(isinstance(layer, nn.MaxPool2d) for layer in layers):
            assert place(network, SIZE, dim, cells) == [axis.offset + axis.jump * j for j in cells]


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.one_of(growing_layers(), plain_layers(), cuts()), min_size=1, max_size=4))
def test_nothing_beyond_an_interval_is_read_when_maps_grow(layers):
    network = build(layers)
    shape = shape_of(network)
    assume(min(shape) > 0 and max(shape) <= 200)
    geometry = trace(network, torch.zeros(1, 1, SIZE, SIZE, dtype=torch.float64))
    for dim, axis in ((2, geometry.y), (3, geometry.x)):
        assert wrong(axis, reads(network, SIZE, dim), tight=False) == []


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.one_of(growing_layers(), plain_layers()), min_size=1, max_size=4))
def test_a_chain_is_what_its_trace_is(layers):
    network = build(layers)
    assume(min(shape_of(network)) > 0)
    assert chain(network) == trace(network, torch.zeros(1, 1, SIZE, SIZE, dtype=torch.float64))


@settings(deadline=None)
@given(
    st.one_of(plain_layers(), st.builds(transposed, pair(1, 5), pair(1, 3), pair(0, 2))).filter(
        lambda layer: isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.MaxPool2d, nn.AvgPool2d))
    )
)
def test_a_window_has_the_output_size_of_pytorch(layer):
    shape, spec = shape_of(layer.double()), WindowSpec.of(*as_function(layer))
    assume(min(shape) > 0)
    assert tuple(spec.output_size(dim, SIZE) for dim in range(2)) == shape[2:]
    assert spec.transposed or all(spec.reads(dim, 0)[0] == -spec.padding[dim][0] for dim in range(2))


@pytest.mark.parametrize("change", ["lo", "hi", "kernel", "offset"])
def test_a_wrong_geometry_is_caught(change):
    network = build([conv(5, 2, 2, 1), nn.AvgPool2d(3, 2, 1), conv(3, 1, 1, 1)])
    axis, read = chain(network).y, reads(network, SIZE, 2)
    assert wrong(axis, read, tight=True) == []
    if change == "offset":
        shifted = replace(axis, offset=axis.offset + 1)
        assert place(network, SIZE, 2, [4]) != [shifted.offset + 4 * shifted.jump]
        return
    other = {
        "lo": replace(axis, rf_start=axis.rf_start + 1),
        "hi": replace(axis, rf_end=axis.rf_end + 1),
        "kernel": chain([conv(4, 2, 2, 1), nn.AvgPool2d(3, 2, 1), conv(3, 1, 1, 1)]).y,
    }[change]
    assert wrong(other, read, tight=True)


@pytest.mark.parametrize("before", [1, 2, 5])
@pytest.mark.parametrize("kind", [nn.ReplicationPad2d, nn.ReflectionPad2d])
def test_repeated_border_cells_leave_the_cells_inside_alone(kind, before):
    network = build([kind(before), conv(3, 1, 0, 1)])
    axis = chain(network).y
    read = reads(network, SIZE, 2)
    cells = [j for j in range(read.shape[1]) if before + 2 <= j < SIZE]
    shifted = replace(axis, rf_start=axis.rf_start + axis.jump * cells[0], rf_end=axis.rf_end + axis.jump * cells[0])
    assert wrong(shifted, read[:, cells], tight=kind is nn.ReplicationPad2d) == []
    if kind is nn.ReflectionPad2d:
        assert wrong(axis, read, tight=False) == []  # mirrored cells are within the wider interval


@pytest.mark.parametrize(("kernel", "padding"), [(3, 1), (5, 2), (4, 1), (2, 4)])
def test_a_reflecting_convolution_reads_within_its_interval(kernel, padding):
    network = build([nn.Conv2d(1, 1, kernel, padding=padding, padding_mode="reflect", bias=False)])
    axis = chain(network).y
    assert wrong(axis, reads(network, SIZE, 2), tight=False) == []
    if kernel > 2:
        assert axis.receptive_field() == kernel
