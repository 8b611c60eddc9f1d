"""Copies of modules that are used in their place, so that a user's module stays as it is."""

from __future__ import annotations

import copy
import random
import types
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fullconv.errors import NetworkError, first_line

ATOMS = (str, bytes, int, float, complex, type(None), type, types.ModuleType, types.BuiltinFunctionType, Tensor)


def private_copy(module: nn.Module, share_weights: bool = False) -> nn.Module:
    """Return a copy of a module to predict with, of all that its hooks refer to, and of its weights unless these are shared.

    Nothing that happens to the copy is seen in the original, above all what ``forward`` and hooks assign.

    Raises:
        NetworkError: A part cannot be copied.
    """
    memo: dict[int, Any] = {id(p): p for p in module.parameters()} if share_weights else {}
    functions: list[tuple[types.FunctionType, types.FunctionType]] = []
    kept: list[Any] = []  # an id must not be used again
    for found in _reachable(module):
        kept.append(found)
        if isinstance(found, Tensor):
            if found.requires_grad and not found.is_leaf:  # a result of the original, which deepcopy refuses
                memo[id(found)] = found.detach().clone()
        elif isinstance(found, types.FunctionType):
            if _refers(found, set()):
                memo[id(found)] = _with_empty_cells(found)
                functions.append((found, memo[id(found)]))
        elif isinstance(found, types.ModuleType) or not _is_copyable(found):
            memo[id(found)] = found
    try:
        copied = copy.deepcopy(module, memo).eval()
        for function, mine in functions:
            for cell, my_cell in zip(function.__closure__ or (), mine.__closure__ or (), strict=True):
                my_cell.cell_contents = copy.deepcopy(cell.cell_contents, memo)
    except Exception as error:  # any class may raise anything here
        raise NetworkError(f"{type(module).__name__} cannot be copied: {first_line(error)}") from error
    return copied


def _reachable(module: nn.Module) -> Iterator[Any]:
    """Yield all objects that a module refers to, but for plain values."""
    pending: list[Any] = [module]
    seen: set[int] = set()
    while pending:
        found = pending.pop()
        if id(found) in seen or (isinstance(found, ATOMS) and not isinstance(found, (Tensor, types.ModuleType))):
            continue
        seen.add(id(found))
        yield found
        if isinstance(found, dict):
            pending += found.values()
        elif isinstance(found, (list, tuple, set, frozenset)):
            pending += found
        elif isinstance(found, types.FunctionType):
            pending += _contents(found)
        elif isinstance(found, types.MethodType):
            pending.append(found.__self__)
        elif isinstance(found, partial):
            pending += [found.func, found.args, found.keywords]
        elif not isinstance(found, ATOMS):
            pending.append(getattr(found, "__dict__", {}))


def _contents(function: types.FunctionType) -> list[Any]:
    """Return what the cells of a function's closure hold."""
    contents = []
    for cell in function.__closure__ or ():
        try:
            contents.append(cell.cell_contents)
        except ValueError:  # not assigned yet
            continue
    return contents


def _refers(function: types.FunctionType, seen: set[int]) -> bool:
    """Whether a function's closure holds anything that can change."""
    seen.add(id(function))
    for held in _contents(function):
        if isinstance(held, types.FunctionType):
            if id(held) not in seen and _refers(held, seen):
                return True
        elif not isinstance(held, ATOMS) or isinstance(held, Tensor):
            return True
    return False


def _with_empty_cells(function: types.FunctionType) -> types.FunctionType:
    """Return a function of the same code with a closure of its own."""
    cells = tuple(types.CellType() for _ in function.__closure__ or ())
    made = types.FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__, cells)
    made.__kwdefaults__ = function.__kwdefaults__
    made.__dict__.update(function.__dict__)
    made.__module__, made.__qualname__ = function.__module__, function.__qualname__
    return made


def _is_copyable(found: Any) -> bool:
    """Whether deepcopy takes an object; one with parts is judged by these."""
    if isinstance(found, (nn.Module, dict, list, tuple, set, frozenset, types.MethodType, partial)):
        return True
    try:
        found.__reduce_ex__(4) if hasattr(found, "__dict__") else copy.deepcopy(found)
    except Exception:  # a lock, an open file
        return False
    return True


@contextmanager
def preserved_rng(device: torch.device) -> Iterator[None]:
    """Leave the random number generators of Python, NumPy and PyTorch as they were."""
    devices = [device] if device.type == "cuda" else []
    state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)
