"""The shipped image classifier: files, integers against an independent reference and the engine's
golden model, accuracy, errors.
"""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bankside.errors import ConfigError
from bankside.isa.machines import load_machine
from bankside.isa.npu_verify import verify
from bankside.isa.numerics_npu import Output, Record, average, requantise
from bankside.mapping.lower_npu.compiled import compile_graph
from bankside.mapping.npu_digits import (
    DEPTHWISE,
    FOLDER,
    MAX_POOL,
    ROUNDING,
    QuantNetwork,
    QuantPool,
    accuracy,
    graph,
    load_images,
    load_network,
    quantise_network,
)
from bankside.sim.golden.npu import NpuGolden

NETWORK = load_network()
QUANT = quantise_network(NETWORK)
PIXELS, LABELS = load_images()


def scalar_scores(network: QuantNetwork, pixels: np.ndarray) -> list[int]:
    """One image, number by number, with the scalar arithmetic of the command set."""
    x = network.image(pixels)[..., None].astype(int)
    for layer in network.layers:
        height, width, channels = x.shape
        pool, k = isinstance(layer, QuantPool), layer.kernel
        step, pad = (k, 0) if pool else (1, layer.pad)
        outputs = channels if pool else len(layer.weight)
        rows, columns = ((n + 2 * pad - k) // step + 1 for n in (height, width))
        y = np.zeros((rows, columns, outputs), int)
        for oy, ox, o in np.ndindex(*y.shape):
            inside = [
                (ky, kx, oy * step + ky - pad, ox * step + kx - pad)
                for ky in range(k)
                for kx in range(k)
                if 0 <= oy * step + ky - pad < height and 0 <= ox * step + kx - pad < width
            ]
            if pool:
                values = [int(x[iy, ix, o]) for _, _, iy, ix in inside]
                top = layer.kind == MAX_POOL
                y[oy, ox, o] = max(values) if top else average(sum(values), len(values))
                continue
            acc, zero = 0, layer.source.zero
            for ky, kx, iy, ix in inside:
                if layer.kind == DEPTHWISE:
                    acc += (int(x[iy, ix, o]) - zero) * int(layer.weight[o, ky, kx])
                else:
                    acc += int((x[iy, ix] - zero) @ layer.weight[o, ky, kx].astype(int))
            record = Record(int(layer.bias[o]), int(layer.mult[o]), int(layer.shift[o]))
            output = Output(layer.out.zero, layer.low, layer.out.high)
            y[oy, ox, o] = requantise(acc, record, output, ROUNDING)
        x = y
    return x.reshape(-1).tolist()


def test_numbers_are_those_of_the_scalar_arithmetic() -> None:
    wanted = QUANT.scores(PIXELS[:2])
    assert [scalar_scores(QUANT, image) for image in PIXELS[:2]] == wanted.tolist()


@pytest.mark.parametrize("name", ["npu_u55_32", "npu_u55_256", "npu_llm_64", "npu_llm_256"])
def test_programs_compute_the_integer_network(name: str) -> None:
    machine = load_machine(name)
    compiled, golden = compile_graph(graph(QUANT), machine), NpuGolden(machine)
    wanted = QUANT.scores(PIXELS[:5])
    for image, row in zip(PIXELS[:5], wanted, strict=True):
        program = compiled.bind({"image": QUANT.image(image)[..., None]})
        verify(program, machine)
        found = compiled.outputs(golden.run(program).outputs)["classes"]
        assert found.reshape(-1).tolist() == row.tolist()


def test_a_wrong_weight_shows() -> None:
    first = QUANT.layers[0]
    weight = first.weight.copy()
    weight[0, 1, 1, 0] ^= 64
    wrong = replace(QUANT, layers=(replace(first, weight=weight), *QUANT.layers[1:]))
    assert not np.array_equal(wrong.scores(PIXELS[:5]), QUANT.scores(PIXELS[:5]))


def test_accuracy_of_the_shipped_images() -> None:
    real, made = NETWORK.scores(PIXELS), QUANT.scores(PIXELS)
    assert len(PIXELS) == len(LABELS) == 100
    assert accuracy(real, LABELS) >= 0.97 and accuracy(made, LABELS) >= 0.97
    assert accuracy(made[:, ::-1], LABELS) < 0.3
    assert (real.argmax(axis=1) == made.argmax(axis=1)).mean() >= 0.98


def test_products_of_an_image_are_counted() -> None:
    places = {"conv1": 64, "depthwise": 64, "pointwise": 64, "conv2": 16, "classes": 1}
    wanted = sum(n * layer.weight.size for layer in NETWORK.layers if (n := places.get(layer.name)))
    assert sum(layer.macs for layer in graph(QUANT).layers) == wanted


def test_provenance_says_where_images_and_weights_come_from() -> None:
    note = json.loads((FOLDER / "PROVENANCE.json").read_text())
    assert "scikit-learn (BSD" in note["images"] and "CC BY 4.0" in note["images"]
    assert note["training_images"] + note["held_out_images"] == 1797
    assert note["held_out_accuracy"] >= 0.98
    assert note["parameters"] == sum(
        layer.weight.size + layer.bias.size for layer in NETWORK.layers if layer.weight is not None
    )


@pytest.mark.slow
def test_accuracy_of_all_held_out_images() -> None:
    """Needs scikit-learn, which brings the images."""
    datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed")
    data = datasets.load_digits()
    pixels, labels = data.images.astype(np.uint8), data.target.astype(np.uint8)
    note = json.loads((FOLDER / "PROVENANCE.json").read_text())
    digest = hashlib.sha256(pixels.tobytes() + labels.tobytes()).hexdigest()
    assert digest == note["images_sha256"]
    order = np.random.default_rng(0).permutation(len(pixels))
    held = order[np.arange(len(order)) % 5 == 0]
    assert np.array_equal(pixels[held][:100], PIXELS)
    real, made = NETWORK.scores(pixels[held]), QUANT.scores(pixels[held])
    assert accuracy(real, labels[held]) == pytest.approx(note["held_out_accuracy"], abs=1e-4)
    assert accuracy(made, labels[held]) >= note["held_out_accuracy"] - 0.005


def copy_of(folder: Path) -> Path:
    return Path(shutil.copytree(FOLDER, folder / "net"))


def test_missing_files_are_named(tmp_path: Path) -> None:
    folder = copy_of(tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="expected network.json and model.safetensors"):
        load_network(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("kernel", 5), r"tensor conv1.weight has shape \[16, 3, 3, 1\], expected \[16, 5, 5, 1\]"),
        (("name", "conv9"), "tensor conv9.weight has shape None"),
        (("kind", "dense"), "layer 'conv1' is of kind 'dense'; expected conv, depthwise"),
    ],
)
def test_descriptions_that_do_not_fit_are_refused(
    tmp_path: Path, change: tuple, message: str
) -> None:
    folder = copy_of(tmp_path)
    data = json.loads((folder / "network.json").read_text())
    data["layers"][0][change[0]] = change[1]
    (folder / "network.json").write_text(json.dumps(data))
    with pytest.raises(ConfigError, match=message):
        load_network(folder)
