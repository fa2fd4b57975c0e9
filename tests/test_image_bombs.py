"""Limits of our own on what is unpacked or decoded, before it is."""

import gzip
import math
import struct
import time
import zlib

import numpy as np
import pytest
from image_files import dicom, nifti
from PIL import Image

from hccvision import images

READS = (images.image_size, images.frame_count, images.read_image, images.read_labels, images.read_provenance)


def refused(path, words, reads=READS):
    """Check that every door refuses a file at once."""
    start = time.monotonic()
    for read in reads:
        with pytest.raises(ValueError, match=rf"{path.name}: .*{words}"):
            read(path)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize(("shape", "before"), [((2000, 2000, 30000), 352), ((9, 9, 3), 2**31), ((9, 9, 3), 7e9)])
def test_a_volume_that_states_more_than_can_be_read(tmp_path, name, shape, before):
    path = nifti(np.zeros((9, 9, 3), np.uint8), tmp_path / name)
    content = bytearray(gzip.decompress(path.read_bytes()) if name.endswith("gz") else path.read_bytes())
    struct.pack_into("<3h", content, 42, *shape)
    struct.pack_into("<f", content, 108, before)
    struct.pack_into("<BxxxII", content, 348, 1, 2**31 - 2000, 6)  # an extension as long
    path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    refused(path, f"states a volume of {int(before) + math.prod(shape)} bytes", READS[1:2])
    refused(path, "that can be read")


def test_a_deflated_dicom_file_is_unpacked_within_limits(tmp_path, monkeypatch):
    pydicom = pytest.importorskip("pydicom")
    path = dicom(np.arange(64, dtype=np.uint8).reshape(8, 8), tmp_path / "a.dcm")
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    dataset.save_as(path, enforce_file_format=True)
    np.testing.assert_array_equal(images.read_values(path).ravel(), np.arange(64))
    monkeypatch.setattr("hccvision.images.formats.dicom.MAX_UNPACKED", 100)
    monkeypatch.setattr("zlib.decompress", lambda *args: pytest.fail("unpacked"))
    refused(path, "more than the 100 bytes that can be read")


@pytest.mark.parametrize("kind", [b"zTXt", b"iCCP", b"iTXt"])
@pytest.mark.parametrize("depth", [8, 16])
def test_texts_of_a_png_are_not_unpacked_without_limit(tmp_path, kind, depth):
    packed = zlib.compress(bytes(2**26))
    words = {b"iTXt": b"a\0\1\0\0\0"}.get(kind, b"a\0\0")
    header = struct.pack(">IIBBBBB", 8, 8, depth, 2, 0, 0, 0)
    pixels = zlib.compress(bytes((1 + 8 * 3 * depth // 8) * 8))
    chunks = [(b"IHDR", header), (kind, words + packed), (b"IDAT", pixels), (b"IEND", b"")]
    parts = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    refused(tmp_path / "a.png", "MAX_TEXT_CHUNK", READS[:1])


def test_a_deep_png_that_unpacks_to_more_than_its_pixels_is_refused(tmp_path):
    imagecodecs = pytest.importorskip("imagecodecs")
    content = imagecodecs.png_encode(np.zeros((8, 8, 3), np.uint16))
    at = content.index(b"IDAT") - 4
    more = b"IDAT" + bytes(2**21)
    chunk = struct.pack(">I", len(more) - 4) + more + struct.pack(">I", zlib.crc32(more))
    (tmp_path / "a.png").write_bytes(content[:at] + chunk + content[at:])
    refused(tmp_path / "a.png", "larger than its pixels", (images.read_image,))


def test_a_tiff_of_very_many_pages_is_not_counted_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr("hccvision.images.formats.picture.MAX_PAGES", 3)
    pages = [Image.new("L", (4, 4), n) for n in range(4)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:3])
    assert images.frame_count(tmp_path / "a.tif") == 3
    assert images.read_image(tmp_path / "a.tif", frame=2)[0, 0, 0] == 2
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    refused(tmp_path / "a.tif", "more than the 3 pages that can be read", READS[1:4])
