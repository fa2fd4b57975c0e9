"""Nothing that identifies a patient leaves a DICOM header, whole or broken."""

import json
import logging
import os
import re
import traceback

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from image_files import COLOUR, DEEP, FRAMES, GEOMETRY, GREY, RNG, SECRETS, dicom, groups, item

from hccvision import images

pydicom = pytest.importorskip("pydicom")


WORDS = ["Doe", "Jane", "4711", "19610203", "Ash Lane", "20230405", "9917", "Elsewhere", "House", "Gregory", "1.2.826"]


def quoted(text: str | bytes) -> list[str]:
    text = text.encode("utf-8") if isinstance(text, str) else text
    return [word for word in WORDS if word.encode() in text]


def breakages(whole: bytes) -> dict[str, bytes]:
    """Copies of a DICOM file that are broken where a parser quotes what it stumbles over."""
    return {
        "cut": whole[:-20],
        "window": whole.replace(b"123456789012", b"Doe^Jane4711"),
        "slope": whole.replace(b"123456789.25", b"House^Gregor"),
        "uid": whole.replace(b"1.2.840.10008.1.2.1\0", b"1.2.826.77003Doe^Jan"),
        "charset": whole.replace(b"ISO_IR 100", b"Doe^Jane  "),
        "rows": whole.replace(b"(\0\x10\0US\x02\0", b"(\0\x10\0DA\x02\0"),
        "name": whole.replace(b"PN\x08\0Doe^Jane", b"US\x08\0Doe^Jane"),
        "length": whole.replace(b"PN\x08\0Doe^Jane", b"PN\xf0\x7fDoe^Jane"),
    }


@pytest.fixture
def identified(tmp_path):
    """A folder of annotated DICOM slices whose headers identify the patient."""
    from hccvision.annotations import voc
    from hccvision.contracts import Annotation

    folder = tmp_path / "slices"
    folder.mkdir()
    for i in range(4):
        pixels = RNG.integers(0, 900, (48, 64)).astype(np.uint16)
        pixels[10:30, 20:40] += 2000
        path = dicom(pixels, folder / f"a{i}.dcm", **SECRETS, **GEOMETRY, Manufacturer="SIEMENS", Modality="MR")
        voc.write(path.with_suffix(".xml"), Annotation([[20, 10, 40, 30]], ("hcc",), size=(48, 64)), image_path=path)
    return folder


def test_the_reader_and_its_errors_quote_nothing_of_the_patient(tmp_path, capfd, caplog, recwarn):
    caplog.set_level(logging.DEBUG)
    path = dicom(
        DEEP, tmp_path / "a.dcm", **SECRETS, SpecificCharacterSet="ISO_IR 100", WindowCenter="123456789012",
        WindowWidth=900, RescaleSlope="123456789.25", RescaleIntercept=0,
    )  # fmt: skip
    said, refused = [], []
    (tmp_path / "broken").mkdir()
    copies = breakages(path.read_bytes())
    for name, content in copies.items():
        assert content != path.read_bytes(), name
        (tmp_path / "broken" / f"{name}.dcm").write_bytes(content)
    for file in (path, *sorted((tmp_path / "broken").iterdir())):
        for call in (
            images.read_image, images.read_values, images.image_size, images.frame_count, images.read_provenance,
            lambda f: images.read_image(f, window=images.Window("fixed", 0, 1)),
        ):  # fmt: skip
            try:
                said.append(repr(call(file)))
            except (ValueError, OSError) as error:
                refused.append((str(error), str(file)))
                said += [str(error), *traceback.format_exception(error)]
    assert len(refused) > len(copies)
    assert all(message.startswith(f"{file}: ") for message, file in refused)
    said += [str(w.message) for w in recwarn] + [r.getMessage() for r in caplog.records] + [*capfd.readouterr()]
    assert [(words, text) for text in said if (words := quoted(text))] == []
    assert not logging.getLogger("pydicom").disabled
    assert quoted(path.read_bytes()) == WORDS  # so there was something to quote


@pytest.mark.filterwarnings("ignore:.*")
def test_no_output_of_the_library_says_whose_slice_it_is(tmp_path, identified, capfd, caplog):
    import hccvision as hv

    caplog.set_level(logging.DEBUG)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "b.dcm").write_bytes((identified / "a0.dcm").read_bytes())
    (tmp_path / "new" / "cut.dcm").write_bytes((identified / "a0.dcm").read_bytes()[:-500])
    data = hv.read_voc_folder(identified)
    report = hv.check(data)
    model = hv.build_model("mobilenet_v1", "ssd", classes=["hcc"], image_size=64, backbone_options={"width": 0.1})
    hv.evaluate(model, data, device="cpu").save(tmp_path / "report")
    found = hv.predict(model, tmp_path / "new", device="cpu")
    proposed = hv.propose(model, tmp_path / "new", score_threshold=0.1, device="cpu")
    assert [p.error is None for p in found] == [p.written for p in proposed] == [True, False]
    model.save(tmp_path / "model.safetensors")
    said = [repr(x) for x in (data, report, str(report), json.dumps(report.to_dict()), found, proposed)]
    said += [r.getMessage() for r in caplog.records] + [*capfd.readouterr()]
    files = [f for f in tmp_path.rglob("*") if f.is_file() and f.suffix != ".dcm"]
    assert len(files) > 6
    said += [re.sub(rb"base64,[A-Za-z0-9+/=]+", b"", f.read_bytes()) for f in files]  # pictures may spell any word
    assert [(words, text[:200]) for text in said if (words := quoted(text))] == []


FUZZ = int(os.environ.get("HCCVISION_FUZZ", "60"))  # examples


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """Small files of all kinds of DICOM: plain, run-length encoded, deflated, coloured, enhanced."""
    from pydicom.uid import DeflatedExplicitVRLittleEndian, RLELossless

    folder = tmp_path_factory.mktemp("samples")
    window = {"WindowCenter": 9000, "WindowWidth": 8000, "RescaleSlope": 2, "RescaleIntercept": -9}
    plain = dicom(DEEP, folder / "plain.dcm", **SECRETS, **GEOMETRY, **window)
    dataset = pydicom.dcmread(plain)
    dataset.compress(RLELossless)
    dataset.save_as(folder / "rle.dcm")
    dataset = pydicom.dcmread(plain)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(folder / "deflated.dcm")
    dicom(COLOUR, folder / "colour.dcm", "YBR_FULL", **SECRETS)
    lut = item(LUTDescriptor=[4, 10, 16], LUTData=[0, 65535, 13107, 26214])
    lut["LUTDescriptor"].VR = lut["LUTData"].VR = "US"
    dicom(GREY, folder / "lut.dcm", VOILUTSequence=[lut], **SECRETS)
    own = [groups((9000, 8001), (2, -100)), groups((4000, 4000, "SIGMOID")), groups(None, (3, 0))]
    dicom(FRAMES, folder / "enhanced.dcm", PerFrameFunctionalGroupsSequence=own, **SECRETS)
    return [path.read_bytes() for path in sorted(folder.iterdir())]


damage = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.floats(0, 1), st.binary(min_size=1, max_size=4)),
        st.tuples(st.just("insert"), st.floats(0, 1), st.binary(min_size=1, max_size=8)),
        st.tuples(st.just("drop"), st.floats(0, 1), st.integers(1, 60)),
        st.tuples(st.just("cut"), st.floats(0, 1), st.just(0)),
    ),
    min_size=1,
    max_size=6,
)


def damaged(content: bytes, changes: list) -> bytes:
    for kind, where, what in changes:
        at = int(where * len(content))
        if kind == "set":
            content = content[:at] + what + content[at + len(what) :]
        elif kind == "insert":
            content = content[:at] + what + content[at:]
        else:
            content = content[:at] + (content[at + what :] if kind == "drop" else b"")
    return content


@settings(max_examples=FUZZ, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_broken_dicom_is_an_array_or_an_error_that_names_the_file(samples, tmp_path_factory, data):
    content = damaged(data.draw(st.sampled_from(samples)), data.draw(damage))
    path = tmp_path_factory.getbasetemp() / "broken.dcm"
    path.write_bytes(content)
    for call, kind in (
        (lambda: images.read_image(path, frame=0), np.ndarray),
        (lambda: images.read_image(path, frame=0, window=images.Window("zscore")), np.ndarray),
        (lambda: images.read_values(path, frame=0), np.ndarray),
        (lambda: images.image_size(path), tuple),
        (lambda: images.frame_count(path), int),
        (lambda: images.read_provenance(path), images.Provenance),
    ):
        try:
            result = call()
        except (ValueError, OSError) as error:
            result = str(error)
        if isinstance(result, str):
            assert result.startswith(f"{path}: ")
            assert not quoted(result)
        else:
            assert isinstance(result, kind)
            assert not isinstance(result, np.ndarray) or result.size > 0
