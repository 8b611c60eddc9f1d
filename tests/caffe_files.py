"""Files as Caffe writes them."""


def field(number, wire, payload):
    key = number << 3 | wire
    return varint(key) + (varint(len(payload)) + payload if wire == 2 else payload)


def varint(value):
    out = b""
    while True:
        byte, value = value & 127, value >> 7
        if not value:
            return out + bytes([byte])
        out += bytes([byte | 128])


def blob(tensor, new):
    data = field(5, 2, tensor.flatten().numpy().astype("<f4").tobytes())
    if new:
        return field(7, 2, field(1, 2, b"".join(varint(d) for d in tensor.shape))) + data
    four = [1] * (4 - tensor.ndim) + list(tensor.shape)
    return b"".join(field(i + 1, 0, varint(d)) for i, d in enumerate(four)) + data


def caffemodel(state, new=True):
    """A .caffemodel with these tensors, in the new layer list or the old."""
    layers = {}
    for key, value in state.items():
        layers.setdefault(key.rsplit(".", 1)[0], []).append(value)
    out = field(1, 2, b"a net")
    for name, tensors in layers.items():
        body = field(1 if new else 4, 2, name.encode()) + (
            field(2, 2, b"Convolution") if new else field(5, 0, varint(4))
        )
        body += b"".join(field(7 if new else 6, 2, blob(t, new)) for t in tensors)
        out += field(100 if new else 2, 2, body)
    return out
