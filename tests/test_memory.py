"""Activation checkpointing changes nothing but the memory, and fit_memory finds what fits by measuring it."""

import copy
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from hccvision.contracts.samples import Sample
from hccvision.model.build import build_model
from hccvision.recipes import Recipe, paper_ssd, paper_vgg16
from hccvision.registry import BACKBONES
from hccvision.training.engine import fit
from hccvision.training.memory import checkpointed, fit_memory, measure

GB = 2**30


def classifier(backbone="mobilenet_v1", size=64, **options):
    options = {"width": 0.25} if backbone == "mobilenet_v1" and not options else options
    return build_model(
        backbone, "linear", classes=["normal", "cancer"], image_size=size, backbone_options=options,
        head_options={"hidden": (), "pool": "avg", "dropout": 0.0}, seed=0,
    )  # fmt: skip


# checkpointing

BACKBONES_TO_TRY = [
    ("mobilenet_v1", {"width": 0.25}),
    ("vgg16", {}),
    ("vgg16_bn", {}),
    ("vgg16_ssd", {"norm": "batch"}),
    ("timm", {"model_name": "resnet18"}),
]


@pytest.mark.parametrize(("name", "options"), BACKBONES_TO_TRY)
def test_output_gradients_and_statistics_are_the_same_with_checkpointing(name, options):
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    plain = BACKBONES.build(name, **options).train()
    saving = copy.deepcopy(plain)
    saving.checkpointing = True
    for backbone in (plain, saving):
        sum((m * m).mean() for m in backbone(images)).backward()
    torch.testing.assert_close(saving(images), plain(images), rtol=1e-4, atol=1e-5)
    for (key, one), other in zip(plain.named_parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-4, atol=1e-6, msg=key)
    if name != "timm":  # which counts a batch twice, see TimmBackbone.checkpointing
        for (key, one), other in zip(plain.named_buffers(), saving.named_buffers(), strict=True):
            torch.testing.assert_close(other[1], one, rtol=1e-4, atol=1e-5, msg=key)


def test_checkpointing_keeps_less_for_the_backward_pass():
    images = torch.rand(2, 3, 96, 96)
    kept = {}
    for on in (False, True):
        backbone = BACKBONES.build("mobilenet_v1").train()
        backbone.checkpointing = on
        sizes = {}

        def pack(tensor, sizes=sizes):
            sizes[tensor.data_ptr()] = tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            maps = backbone(images)
        weights = {p.data_ptr() for p in backbone.parameters()}
        kept[on] = sum(size for place, size in sizes.items() if place not in weights)
        del maps
    assert kept[True] < 0.5 * kept[False]


def test_a_training_with_checkpointing_ends_on_the_same_weights(tmp_path):
    rng = np.random.default_rng(0)
    samples = []
    for i in range(4):
        Image.fromarray(rng.integers(0, 100 + 150 * (i % 2), (40, 50), np.uint8)).save(tmp_path / f"{i}.png")
        samples.append(Sample(tmp_path / f"{i}.png", class_name=("normal", "cancer")[i % 2]))
    recipe = Recipe(optimiser="sgd", learning_rate=1e-2, epochs=2, batch=4)
    ends = []
    for on in (False, True):
        model = classifier()
        fit(model, samples, samples, recipe=replace(recipe, checkpointing=on), device="cpu")
        assert model.backbone.checkpointing is False
        ends.append(model.state_dict())
    for name, value in ends[0].items():
        torch.testing.assert_close(ends[1][name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_a_backbone_without_checkpointing_is_refused():
    model = classifier()
    model.backbone = nn.Conv2d(3, 3, 1)
    with pytest.raises(ValueError, match="an attribute checkpointing, and Conv2d has none"), checkpointed(model, True):
        pass
    with checkpointed(model, False):
        pass


# fitting


def test_what_fits_is_left_as_it_is():
    model, recipe = classifier(), Recipe(batch=4)
    before = copy.deepcopy(model.state_dict())
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    assert fit_memory(model, recipe, "64 GB", device="cpu") == recipe
    assert torch.equal(torch.rand(2), expected)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert model.training


@pytest.mark.parametrize("frozen", [(), ("backbone",)])
def test_what_does_not_fit_is_cut_into_parts(frozen):
    model = classifier(size=160, width=0.5)
    recipe = Recipe(optimiser="adam", batch=16, frozen=frozen, ema=0.9)
    least = measure(model, replace(recipe, accumulate=recipe.batch), device="cpu")
    whole = measure(model, recipe, device="cpu")
    if frozen:
        assert whole - least < 0.1 * GB  # no activations are kept
        return
    assert whole - least > 0.1 * GB
    middle = (whole + least) // 2
    found = fit_memory(model, recipe, middle, device="cpu")
    assert found.accumulate > 1
    assert replace(found, accumulate=1, checkpointing=False) == recipe
    assert measure(model, found, device="cpu") < middle + 0.05 * GB


def test_what_can_not_fit_is_an_error_that_says_the_least():
    message = r"can't be trained in 0\.01 GB on cpu: batch 1, fp32, checkpointing: .* GB is the least"
    with pytest.raises(MemoryError, match=message):
        fit_memory(classifier(), Recipe(batch=2), "10MB", device="cpu")


@pytest.mark.parametrize(
    ("budget", "message"),
    [("much", 'such as "2GB" or "900 MB", got \'much\''), ("2TB", "got '2TB'"), (0, "at least 1 byte, got 0")],
)
def test_a_budget_that_is_none_is_refused(budget, message):
    with pytest.raises(ValueError, match=message):
        fit_memory(classifier(), Recipe(), budget, device="cpu")


@pytest.mark.parametrize(
    ("backbone", "head", "classes", "recipe"),
    [
        ("vgg16", "linear", ["normal", "cancer"], paper_vgg16()),
        ("mobilenet_v1", "ssd", ["hcc"], paper_ssd()),
    ],
)
def test_the_papers_recipes_fit_into_8_gb_of_a_cpu(backbone, head, classes, recipe):
    model = build_model(backbone, head, classes=classes)
    assert fit_memory(model, recipe, "8GB", device="cpu") == recipe


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("backbone", "head", "classes", "recipe"),
    [
        ("vgg16", "linear", ["normal", "cancer"], replace(paper_vgg16(), frozen=())),
        ("mobilenet_v1", "ssd", ["hcc"], paper_ssd()),
    ],
)
def test_the_papers_recipes_fit_into_2_gb_of_a_card(backbone, head, classes, recipe):
    model = build_model(backbone, head, classes=classes)
    torch.cuda.set_per_process_memory_fraction(2 * GB / torch.cuda.get_device_properties(0).total_memory)
    try:
        found = fit_memory(model, recipe, "2GB", device="cuda")
        assert measure(model, found, device="cuda") <= 2 * GB
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
def test_a_tuned_allocator_keeps_its_memory():
    """In a process of its own, as the allocator is the process's."""
    code = """
import resource
import torch
from hccvision.training.memory import tune_allocator

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(4_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before, done, _, after = faults(), tune_allocator(), faults(), faults()
print(done, before, after)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    tuned, before, after = done.stdout.split()
    assert tuned == "True"
    assert int(after) < int(before) / 4
