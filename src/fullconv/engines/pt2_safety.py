"""PyTorch programs (`.pt2`) as data: what such a file may contain is listed here, and all else is refused before loading.

PyTorch's own reader unpickles some parts of a file, evaluates others as Python, and looks the names of operations up in
all of `torch`. A segmentation program needs none of that.
"""

from __future__ import annotations

import inspect
import io
import json
import pickle  # for the name of its error
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.utils._sympy.value_ranges import ValueRanges

from fullconv.engines.engine import UnsafeProgramError
from fullconv.engines.graph import quiet


def _split(text: str) -> frozenset[str]:
    return frozenset(text.split())


MEMBERS = re.compile(
    r"archive_format|archive_version|version|byteorder|\.data/(version|serialization_id)|models/model\.json"
    r"|data/weights/(weight_\d+|model_weights_config\.json)|data/constants/(tensor_\d+|model_constants_config\.json)"
    r"|data/sample_inputs/model\.pt|extra/[A-Za-z0-9_]+"
)
"""Files in the archive."""
ATEN = _split(
    """
    __and__ __or__ _assert_scalar _assert_tensor_metadata _softmax _to_copy _unsafe_view abs adaptive_avg_pool2d
    add add_ addcdiv addcmul addmm alias amax amin arange argmax avg_pool2d avg_pool3d batch_norm bitwise_and
    bitwise_not bitwise_or bmm cat chunk clamp clamp_ clamp_max clamp_min clone constant_pad_nd contiguous conv1d conv2d conv3d
    conv_transpose2d convolution copy cos cumsum detach detach_ div div_ dropout dropout_ einsum elu embedding eq
    erf exp expand expand_as eye flatten flip floor floor_divide full full_like gather ge gelu gelu_ glu
    group_norm gt hardsigmoid hardsigmoid_ hardswish hardswish_ hardtanh hardtanh_ index index_select
    instance_norm layer_norm le leaky_relu leaky_relu_ lerp lift_fresh_copy linalg_vector_norm linear log
    log_softmax logical_and logical_not logical_or logical_xor logsumexp lt masked_fill matmul max max_pool2d
    max_pool2d_with_indices maximum mean min minimum mish mish_ movedim mul mul_ narrow native_batch_norm
    native_group_norm native_layer_norm ne neg new_full new_ones new_zeros ones ones_like outer pad permute
    pixel_shuffle pixel_unshuffle pow prelu reciprocal reflection_pad2d relu relu6 relu6_ relu_ remainder repeat
    repeat_interleave replication_pad2d reshape reshape_as roll round rsqrt rsub scalar_tensor
    scaled_dot_product_attention select sigmoid sigmoid_ sign silu silu_ sin slice softmax softplus split
    split_with_sizes sqrt square squeeze stack std sub sub_ sum sym_numel sym_size sym_storage_offset sym_stride t
    tanh tanh_ tile to transpose tril triu unbind unflatten unfold unsqueeze unsqueeze_ upsample_bilinear2d
    upsample_nearest2d var var_mean view view_as where zeros zeros_like
    """
)
"""Operations of `torch.ops.aten` in segmentation networks; none of them reads files or foreign memory."""
TARGET = re.compile(
    r"torch\.ops\.aten\.(?P<op>[a-z0-9_]+)\.[A-Za-z0-9_]+"
    r"|_operator\.(add|sub|mul|floordiv|truediv|mod|neg|pow|lt|le|gt|ge|eq|ne|and_|or_|getitem)"
    r"|torch\.sym_(max|min|not|int|float|ite|sum)|math\.(ceil|floor|trunc)"
)
"""Operations of a graph."""
FUNCTIONS = _split(
    """
    Add And CeilDiv CeilToInt CleanDiv Eq Equality False FloorDiv FloorToInt Ge GreaterThan Gt IntTrueDiv Integer
    Le LessThan Lt Max Min Mod Mul Ne Not Or Pow PythonMod Rational StrictGreaterThan StrictLessThan Symbol ToFloat
    True TruncToInt Unequality false integer nonnegative positive true
    """
)
"""Names in expressions of sizes: sums, products, small powers, quotients and comparisons of symbols and whole numbers."""
TOKENS = re.compile(r"'[a-z]{1,2}\d{1,6}'|[A-Za-z]+|-?\d{1,18}|[(),=]|\s")
WORD = re.compile(r"[A-Za-z0-9_.:/+\-]*")
"""Names of values, layers and types, without characters that could end a name in a generated program."""
TEXT = re.compile(r"['A-Za-z0-9_.:/+\-() *<>=,%&|~!]*")
"""String arguments of operations, quoted in a generated program; assertions about sizes have some."""
SPEC = re.compile(r'(builtins\.(tuple|list|dict)|images|type|context|null|children_spec|[\[\]{}:,"\s\d\\])*')
"""Trees of arguments."""
SMALL_POWER = re.compile(r",\s?Integer\(-?\d\)$")
MAX_EXPRESSION_CHARS, MAX_EXPRESSION_DEPTH = 20_000, 60
MAX_GRAPH_BYTES = 64 * 2**20
ARGUMENTS = _split(
    """
    as_bool as_bools as_device as_expr as_float as_floats as_int as_ints as_layout as_memory_format as_name
    as_none as_optional_tensor as_optional_tensors as_scalar_type as_string as_sym_bool as_sym_float as_sym_floats
    as_sym_int as_sym_ints as_tensor as_tensors
    """
)
METADATA = frozenset({"nn_module_stack", "torch_fn"})


def drop_size_asserts(program: Any) -> Any:
    """Remove assertions about sizes from a captured program, in place, and return it.

    The tracer adds them where an operation would compute in another order, such as on a map that is one cell wide. The
    operations themselves work at every size, and the parity check compares their results on small images.
    """
    for node in list(program.graph.nodes):
        if node.target is torch.ops.aten._assert_scalar.default:
            program.graph.erase_node(node)
    program.graph.eliminate_dead_code()
    program.graph_module.recompile()
    for symbol, values in program.range_constraints.items():
        program.range_constraints[symbol] = ValueRanges(1, values.upper)
    return program


def module_of(program: Any) -> Any:
    """Return a program as a module for images of any size."""
    if "check_guards" in inspect.signature(program.module).parameters:
        return program.module(check_guards=False)  # they repeat what `drop_size_asserts` removes
    return program.module()


def save_program(program: Any, texts: Mapping[str, str]) -> bytes:
    """Return a program, without its stack traces, as a file with texts that `read_program` and torch read."""
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    buffer = io.BytesIO()
    with quiet():
        torch.export.save(program, buffer, extra_files=dict(texts))
    buffer.seek(0)
    check_archive(buffer)
    return buffer.getvalue()


def read_program(path: Path) -> Any:
    """Read an exported program without executing anything that a foreign file may contain."""
    check_archive(path)
    with quiet():
        return torch.export.load(path)


def check_archive(file: Path | io.BytesIO) -> None:
    """Raise where a file contains more than numbers and a graph of known operations.

    It is read by PyTorch's own archive reader, so that no other reader can see other parts of it.
    """
    reader = torch._C.PyTorchFileReader(str(file) if isinstance(file, Path) else file)
    names = list(reader.get_all_records())
    if len({name.lower() for name in names}) != len(names):
        raise UnsafeProgramError("two parts with one name")
    if (name := next((name for name in names if not MEMBERS.fullmatch(name)), None)) is not None:
        raise UnsafeProgramError(f"a part, {name[:80]!r}, that no exported network has")
    for part in ("weights", "constants"):
        found = _dicts(_json(reader, f"data/{part}/model_{part}_config.json"))
        if any(each.get("use_pickle", False) is not False for each in found):
            raise UnsafeProgramError(f"pickled {part}")
    try:
        with quiet():
            torch.load(io.BytesIO(reader.get_record("data/sample_inputs/model.pt")), weights_only=True)
    except pickle.UnpicklingError as error:
        raise UnsafeProgramError("pickled objects among its examples") from error
    model = _json(reader, "models/model.json")
    if not isinstance(model, dict) or model.get("guards_code"):
        raise UnsafeProgramError("Python code for its sizes")
    check_graph(model)


def check_graph(model: Any) -> None:
    """Raise where a graph, as JSON, contains an operation or a name that is not listed."""
    for each in _dicts(model):
        for key, value in each.items():
            _check_word(key, "a name")
            if key.startswith("as_") and key not in ARGUMENTS:
                raise UnsafeProgramError(f"an argument of type {key[:80]!r}")
            if key == "target":
                _check_target(value)
            elif key == "expr_str":
                _check_expression(value)
            elif key == "as_string":
                _check_word(value, "a string", TEXT)
            elif key == "metadata":
                if not isinstance(value, dict) or not value.keys() <= METADATA:
                    raise UnsafeProgramError("metadata of another program")
            elif key in ("in_spec", "out_spec"):
                if not isinstance(value, str) or not SPEC.fullmatch(value):
                    raise UnsafeProgramError("arguments of types that images do not have")
            elif key == "treespec_namedtuple_fields" and value:
                raise UnsafeProgramError("custom types")
            elif key not in METADATA:
                for text in value if isinstance(value, list) else [value]:
                    if isinstance(text, str):
                        _check_word(text, "a name")


def _check_word(text: Any, what: str, allowed: re.Pattern[str] = WORD) -> None:
    if not isinstance(text, str) or not allowed.fullmatch(text):
        raise UnsafeProgramError(f"{what}, {str(text)[:80]!r}, that could be code")


def _check_target(target: Any) -> None:
    found = TARGET.fullmatch(target) if isinstance(target, str) else None
    if found is None or (found["op"] is not None and found["op"] not in ATEN):
        raise UnsafeProgramError(f"an operation, {str(target)[:80]!r}, that segmentation networks do not have")


def _check_expression(text: Any) -> None:
    """Raise where an expression is more than arithmetic of sizes; PyTorch evaluates it as Python."""
    if not isinstance(text, str) or len(text) > MAX_EXPRESSION_CHARS:
        raise UnsafeProgramError("an expression of a size that is too long")
    open_calls: list[str] = []
    place, name = 0, ""
    while place < len(text):
        token = TOKENS.match(text, place)
        word = token.group() if token else ""
        if token is None or (word.isalpha() and word not in FUNCTIONS):
            raise UnsafeProgramError(f"an expression of a size, {text[place : place + 40]!r}, that could be code")
        if word == "(":
            if len(open_calls) >= MAX_EXPRESSION_DEPTH or (name == "Pow" and "Pow" in open_calls):
                raise UnsafeProgramError("an expression of a size that is too deep")
            open_calls.append(name)
        elif word == ")" and open_calls and open_calls.pop() == "Pow" and not SMALL_POWER.search(text[:place]):
            raise UnsafeProgramError(f"an expression of a size, {text[-60:]!r}, that may not terminate")
        name = word if word.isalpha() else ""
        place = token.end()


def _json(reader: Any, name: str) -> Any:
    try:
        text = reader.get_record(name)
        if len(text) > MAX_GRAPH_BYTES:
            raise UnsafeProgramError(f"{name} that is larger than any network")
        return json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UnsafeProgramError(f"{name} that is not JSON") from error


def _dicts(tree: Any) -> Iterator[dict[str, Any]]:
    """Yield all objects of a JSON tree."""
    waiting = [tree]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            yield each
            waiting.extend(each.values())
        elif isinstance(each, list):
            waiting.extend(each)
