"""Whole pictures are never called truncated, whatever follows their pixels; cut ones always are."""

import io

import numpy as np
import pytest
from image_files import dicom
from PIL import Image, ImageFilter

from hccvision import images
from hccvision.annotations.judging import judge_image
from hccvision.curation.thumbnails import thumbnail

RNG = np.random.default_rng(0)
PICTURE = Image.fromarray(RNG.integers(0, 256, (48, 64, 3), np.uint8)).filter(ImageFilter.GaussianBlur(2))
NOISE = RNG.integers(0, 256, 200_000, np.uint8).tobytes()
BOTH = {"save_all": True, "append_images": [PICTURE.rotate(9)]}


def encoded(kind, mode="RGB", **options):
    stream = io.BytesIO()
    PICTURE.convert(mode).save(stream, kind, **options)
    return stream.getvalue()


THUMBNAIL = encoded("JPEG", quality=20)
JPEG = encoded("JPEG")
WHOLE = {
    "progressive.jpg": encoded("JPEG", progressive=True),
    "grey.jpg": encoded("JPEG", "L", quality=100),
    "cmyk.jpg": encoded("JPEG", "CMYK"),
    "restarts.jpg": encoded("JPEG", restart_marker_rows=1),
    "thumbnail.jpg": JPEG[:2] + b"\xff\xe5" + (len(THUMBNAIL) + 2).to_bytes(2, "big") + THUMBNAIL + JPEG[2:],
    "mpo.jpg": encoded("MPO", **BOTH),
    "a.png": encoded("PNG"),
    "palette.png": encoded("PNG", "P"),
    "no_end.png": encoded("PNG")[:-12],
    "a.gif": encoded("GIF"),
    "no_end.gif": encoded("GIF")[:-1],
    "a.webp": encoded("WEBP"),
    "lossless.webp": encoded("WEBP", lossless=True),
    "a.tif": encoded("TIFF"),
    "lzw.tif": encoded("TIFF", compression="tiff_lzw"),
    "jpeg.tif": encoded("TIFF", compression="jpeg"),
    "a.jp2": encoded("JPEG2000"),
    "tiles.j2k": encoded("JPEG2000", no_jp2=True, tile_size=(32, 32)),
    "a.bmp": encoded("BMP"),
    "palette.bmp": encoded("BMP", "P"),
    "a.ppm": encoded("PPM"),
    "a.tga": encoded("TGA"),
}
AFTER = {
    "nothing": b"",
    "zeros": bytes(5000),
    "a marker": b"\xff\xda junk",
    "a video": NOISE,
    "a picture": THUMBNAIL,
    "a line end": b"\n",
}


@pytest.mark.parametrize("name", WHOLE)
def test_whole_pictures_are_whole_whatever_follows(tmp_path, name):
    plain = tmp_path / name
    plain.write_bytes(WHOLE[name])
    expected = images.read_image(plain)
    assert judge_image(plain) == ((48, 64), ())
    for after in AFTER.values():
        path = tmp_path / f"after_{name}"
        path.write_bytes(WHOLE[name] + after)
        assert judge_image(path) == ((48, 64), ())
        np.testing.assert_array_equal(images.read_image(path), expected)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF", "ignore:Truncated File Read")
@pytest.mark.parametrize("name", WHOLE)
def test_what_is_called_whole_can_be_read_wherever_it_is_cut(tmp_path, name):
    path, content = tmp_path / name, WHOLE[name]
    plain = tmp_path / f"plain_{name}"
    plain.write_bytes(content)
    expected = images.read_image(plain)
    for length in sorted({*range(0, len(content), len(content) // 40 + 1), *range(len(content) - 9, len(content))}):
        path.write_bytes(content[:length])
        _, problems = judge_image(path)
        if problems:
            assert not problems[0].usable
            with pytest.raises(ValueError, match="can't be read"):
                images.read_image(path)
        else:
            np.testing.assert_array_equal(images.read_image(path), expected)


@pytest.mark.shared_data
def test_no_image_of_the_shared_data_is_called_truncated(shared):
    files = sorted(p for p in (shared / "data").rglob("*") if images.is_image(p) and p.parent.name != "dicom_samples")
    assert len(files) > 1200
    for path in files:
        size, problems = judge_image(path)
        assert [p.kind for p in problems if p.kind != "several_frames"] == []
        assert size is not None


@pytest.mark.parametrize("cut", [1, 2, 700])
def test_a_dicom_file_whose_header_hides_the_missing_pixels_is_truncated(tmp_path, cut):
    path = dicom(np.ones((40, 30), np.uint8), tmp_path / "a.dcm", ImageComments="x" * 2000)
    assert judge_image(path) == ((40, 30), ())
    path.write_bytes(path.read_bytes()[:-cut])
    assert [p.kind for p in judge_image(path)[1]] == ["truncated_image"]


def test_a_dicom_file_without_a_decoder_is_named_when_the_folder_is_read(shared):
    size, (problem,) = judge_image(shared / "data/dicom_samples/MR_small_jpeg_ls_lossless.dcm")
    assert size == (64, 64)
    assert problem.kind == "unreadable_image"
    assert "no decoder for that is installed" in problem.message


def test_a_jpeg_of_very_many_scans_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr("hccvision.images.formats.picture_ends.MAX_SCANNED", 48 * 64 * 20)
    progressive = WHOLE["progressive.jpg"]
    scan = progressive[progressive.rindex(b"\xff\xda") : -2]
    bomb = progressive[:-2] + scan * 20 + b"\xff\xd9"
    (tmp_path / "a.jpg").write_bytes(bomb)
    (tmp_path / "b.jpg").write_bytes(progressive)
    assert images.read_image(tmp_path / "b.jpg").shape == (48, 64, 3)
    encaps = pytest.importorskip("pydicom.encaps")
    header = {"PixelData": encaps.encapsulate([bomb]), "Rows": 48, "Columns": 64}
    path = dicom(np.zeros((4, 4), np.uint8), tmp_path / "a.dcm", **header)
    dataset = pytest.importorskip("pydicom").dcmread(path)
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.50"
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path)
    monkeypatch.setattr(Image.Image, "load", lambda *args: pytest.fail("decoded"))
    for name in ("a.jpg", "a.dcm"):
        with pytest.raises(ValueError, match=r": .*scans of 3072 pixels, more than the 61440 that can be read"):
            images.read_image(tmp_path / name)
        with pytest.raises(ValueError, match="scans of 3072 pixels"):
            thumbnail(tmp_path / name)


@pytest.mark.parametrize("key", ["date:create", "Raw profile type exif"])
def test_texts_behind_the_pixels_cost_no_decoding_unless_they_may_turn_the_picture(tmp_path, key, monkeypatch):
    import zlib

    text = b"tEXt" + key.encode() + b"\0 2026"
    chunk = (len(text) - 4).to_bytes(4, "big") + text + zlib.crc32(text).to_bytes(4, "big")
    (tmp_path / "a.png").write_bytes(WHOLE["a.png"][:-12] + chunk + WHOLE["a.png"][-12:])
    loads = []
    load = Image.Image.load
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: loads.append(1) or load(self))
    assert images.image_size(tmp_path / "a.png") == (48, 64)
    assert bool(loads) == key.startswith("Raw")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".jp2"])
def test_the_size_of_a_turned_picture_is_told_without_decoding(tmp_path, suffix, monkeypatch):
    exif = Image.Exif()
    exif[0x0112] = 6
    PICTURE.save(tmp_path / f"a{suffix}", exif=exif)
    expected = images.read_image(tmp_path / f"a{suffix}").shape[:2]
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    assert images.image_size(tmp_path / f"a{suffix}") == expected
