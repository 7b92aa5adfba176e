from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest

from experts import InputError
from experts.sources.idx import read_idx

PIXELS = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)


def idx(array):
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.mark.parametrize("name", ["plain", "packed.gz"])
def test_reads_what_was_written(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(gzip.compress(idx(PIXELS), mtime=0) if name.endswith(".gz") else idx(PIXELS))
    np.testing.assert_array_equal(read_idx(path, 3), PIXELS)


@pytest.mark.parametrize(
    ("name", "raw", "message"),
    [
        ("labels", idx(PIXELS[0, 0]), r"starts with 00000801, an IDX file of 3 dimensions with 00000803"),
        ("empty", b"", r"starts with , an IDX"),
        ("header", idx(PIXELS)[:10], r"starts with 00000803"),
        (
            "short",
            idx(PIXELS)[:-1],
            r"states 24 bytes for shape \(2, 3, 4\) and holds 23; get the file again",
        ),
        ("long", idx(PIXELS) + b"x", r"holds 25"),
        ("cut.gz", gzip.compress(idx(PIXELS), mtime=0)[:-9], r"cannot be read"),
        ("other.gz", b"not gzip at all", r"cannot be read"),
        ("damaged.gz", gzip.compress(idx(PIXELS), mtime=0)[:12] + b"\xff" * 30, r"cannot be read"),
    ],
)
def test_damage_is_an_error_that_names_the_file(tmp_path, name, raw, message):
    path = tmp_path / name
    path.write_bytes(raw)
    with pytest.raises(InputError, match=rf"(?s)file='.*{name}': .*{message}"):
        read_idx(path, 3)
