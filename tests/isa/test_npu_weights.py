"""Weight tiles of the npu: both ways, shortest form, order, refusals."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bankside.errors import ProgramError
from bankside.isa.npu_weights import (
    PACKED,
    RAW8,
    W4,
    WeightLayout,
    decode_packed,
    encode_packed,
    encode_w4,
    packed_tile,
)


def array(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8)


def random_tile(rng, size):
    """Weights of a random range and density, zero sometimes outside of the range."""
    low = rng.integers(-128, 128)
    tile = rng.integers(low, min(127, low + 2 ** rng.integers(0, 9) - 1) + 1, size)
    return np.where(rng.random(size) < rng.choice([0, 0.5, 0.95]), 0, tile).astype(np.int8)


@given(st.integers(0, 2**32 - 1), st.sampled_from([4, 8, 16, 32, 128, 256, 1024]))
def test_packed_round_trip_is_never_longer_than_the_plain_form(seed, size):
    tile = random_tile(np.random.default_rng(seed), size)
    data = encode_packed(tile)
    assert len(data) % 8 == 0
    assert len(data) <= 8 + -(-size // 8) * 8
    np.testing.assert_array_equal(decode_packed(array(data), 0, size), tile)
    assert packed_tile(array(data), 0, size).size == len(data)


@pytest.mark.parametrize(
    ("tile", "data"),
    [
        # Every weight equal: no codes.
        ([5] * 8, "00 05 00 00 00 00 00 00"),
        ([0] * 8, "00 00 00 00 00 00 00 00"),
        # -128..127 needs 8 bits; the codes are the distances from the least.
        ([-128, 127, 0, -1] * 2, "08 80 00 00 00 00 00 00 00 ff 80 7f 00 ff 80 7f"),
        # Width 2, base -1: codes 0 1 2 3 are 11100100.
        ([-1, 0, 1, 2], "02 ff 00 00 00 00 00 00 e4 00 00 00 00 00 00 00"),
    ],
)
def test_packed_bytes_by_hand(tile, data):
    assert encode_packed(np.array(tile, np.int8)) == bytes.fromhex(data)


def test_packed_with_mask_by_hand():
    """Two of 64 weights are 100 and 101: a mask (8 bytes) and one word of codes, not 56 bytes."""
    tile = np.zeros(64, np.int8)
    tile[3], tile[62] = 101, 100
    header, mask, codes = "01 64 01 00 00 00 00 00", "08 00 00 00 00 00 00 40", "01" + " 00" * 7
    assert encode_packed(tile) == bytes.fromhex(header + mask + codes)


def test_equal_lengths_take_no_mask():
    """Half of the 64 weights are 0: with mask 8 + 4 * 8 bytes, without 40."""
    tile = np.tile([0, 15, 16, 0, 0, 31, 16, 31], 8).astype(np.int8)
    assert encode_packed(tile)[2] == 0 and len(encode_packed(tile)) == 8 + 40
    tile[1::8] = 0
    assert encode_packed(tile)[2] == 1


@pytest.mark.parametrize("header", ["09 00 00", "01 00 02", "01 00 00 01"])
def test_headers_that_are_none_are_refused(header):
    data = array(bytes.fromhex(header).ljust(64, b"\0"))
    with pytest.raises(ProgramError, match="is `weights` the word of the first tile"):
        packed_tile(data, 0, 8)


def test_truncated_tile_is_refused():
    data = array(encode_packed(np.arange(-128, 128, dtype=np.int8)))
    with pytest.raises(ProgramError, match="ends at byte 264 of 256"):
        decode_packed(data[:256], 0, 256)
    with pytest.raises(ProgramError, match="is outside the weights"):
        decode_packed(data[:4], 0, 256)


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([(PACKED, 8), (PACKED, 256), (RAW8, 8), (RAW8, 256), (W4, 256)]),
    st.sampled_from([4, 8, 16, 32]),
    st.tuples(st.integers(1, 70), st.integers(1, 3), st.integers(1, 3)),
    st.one_of(st.none(), st.integers(1, 70)),
)
def test_layer_round_trip(seed, form, group, shape, inputs):
    outputs, *kernel = shape
    if form[0] == W4 and inputs is None:
        inputs = 33
    layout = WeightLayout(*form[:1], group, form[1], outputs, tuple(kernel), inputs)
    rng = np.random.default_rng(seed)
    full = (outputs, *kernel) if inputs is None else (outputs, *kernel, inputs)
    w, scales, expected = random_tile(rng, full), None, None
    if form[0] == W4:
        w = (w >> 4).astype(np.int8)
        scales = rng.integers(1, 64, (*full[:3], -(-inputs // 32)))
        expected = w * np.repeat(scales, 32, axis=3)[..., :inputs]
    data = layout.encode(w, scales)
    np.testing.assert_array_equal(layout.decode(array(data)), w if scales is None else expected)
    words = layout.tile_words(array(data + b"\x55" * 512))
    assert len(words) == layout.groups * layout.steps
    assert sum(words) * form[1] == len(data)


def test_order_of_tiles_and_output_channel_major():
    """Group, ky, kx, block of 32 input channels; in a tile output channel, input channel."""
    layout = WeightLayout(RAW8, 4, 8, 5, (2, 1), 33)
    o, ky, i = np.meshgrid(range(5), range(2), range(33), indexing="ij")
    w = (o * 24 + ky * 12 + i % 12).astype(np.int8)[:, :, None, :]
    data = array(layout.encode(w)).view(np.int8).reshape(2, 2, 2, 4, 32)
    for group, step_y, block, channel, lane in np.ndindex(data.shape):
        o, i = 4 * group + channel, 32 * block + lane
        value = w[o, step_y, 0, i] if o < 5 and i < 33 else 0
        assert data[group, step_y, block, channel, lane] == value


def test_w4_halves_and_scales():
    tile = np.zeros((4, 32), np.int8)
    tile[0, :4] = 1, -8, 7, -1
    data = encode_w4(tile, np.array([1, 2, 3, 63]))
    assert data[:2] == b"\x81\xf7" and data[2:64] == b"\0" * 62 and data[64:] == b"\x01\x02\x03\x3f"


@pytest.mark.parametrize(("value", "scale"), [(8, 1), (-9, 1), (0, 0), (0, 64)])
def test_w4_range(value, scale):
    with pytest.raises(ProgramError, match="expected"):
        encode_w4(np.full((4, 32), value, np.int8), np.full(4, scale))


def test_refusals_of_a_layer():
    with pytest.raises(ProgramError, match="w4 weights of DEPTHWISE"):
        WeightLayout(W4, 4, 256, 4, (1, 1), None)
    layout = WeightLayout(RAW8, 4, 8, 5, (1, 1), 33)
    with pytest.raises(ProgramError, match="expected \\(5, 1, 1, 33\\)"):
        layout.encode(np.zeros((5, 33), np.int8))
    with pytest.raises(ProgramError, match="tile 3: ends at byte 512 of 504"):
        layout.decode(np.zeros(504, np.uint8))
    with pytest.raises(ProgramError, match="w4 scales of shape None"):
        WeightLayout(W4, 4, 8, 5, (1, 1), 33).encode(np.zeros((5, 1, 1, 33), np.int8))
