"""Train the small image classifier that ships in `mapping/models/digits_cnn`.

Needs NumPy, safetensors and scikit-learn, which brings the images (1,797 handwritten digits of
8 x 8 pixels):

    pip install scikit-learn safetensors
    python examples/train_digits.py --out mapping/models/digits_cnn

Every fifth image of a seeded permutation is held out and never trained on; 100 of the held-out ones
are written beside the weights. Activation ranges are those of the training images. The network is
trained in float32 and written in float32; `bankside.mapping.npu_digits` quantises it when it loads
it. One thread and the same NumPy give the same weights.
"""

import argparse
import hashlib
import json
import time
from pathlib import Path

import numpy as np
import sklearn
from safetensors.numpy import save_file
from sklearn.datasets import load_digits

HELD_OUT_EVERY = 5
SHIPPED_IMAGES = 100
LEVELS = 16
LAYERS = (
    {"name": "conv1", "kind": "conv", "kernel": 3, "pad": 1, "outputs": 16, "relu": True},
    {"name": "depthwise", "kind": "depthwise", "kernel": 3, "pad": 1, "outputs": 16, "relu": True},
    {"name": "pointwise", "kind": "conv", "kernel": 1, "pad": 0, "outputs": 32, "relu": True},
    {"name": "pool1", "kind": "max_pool", "kernel": 2},
    {"name": "conv2", "kind": "conv", "kernel": 3, "pad": 1, "outputs": 32, "relu": True},
    {"name": "pool2", "kind": "average_pool", "kernel": 4},
    {"name": "classes", "kind": "conv", "kernel": 1, "pad": 0, "outputs": 10, "relu": False},
)
"""Feature maps [images, y, x, channels]; pools step by their kernel."""


def windows(x: np.ndarray, kernel: int, pad: int) -> np.ndarray:
    """[n, y, x, c] -> [n, y, x, ky, kx, c]."""
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    view = np.lib.stride_tricks.sliding_window_view(x, (kernel, kernel), axis=(1, 2))
    return view.transpose(0, 1, 2, 4, 5, 3)


def fold(dwindows: np.ndarray, shape: tuple[int, ...], pad: int) -> np.ndarray:
    """Adjoint of `windows`."""
    n, height, width, channels = shape
    out = np.zeros((n, height + 2 * pad, width + 2 * pad, channels), np.float32)
    rows, columns, kernel = dwindows.shape[1:4]
    for ky in range(kernel):
        for kx in range(kernel):
            out[:, ky : ky + rows, kx : kx + columns] += dwindows[:, :, :, ky, kx]
    return out[:, pad : pad + height, pad : pad + width]


class Conv:
    """Convolution or depthwise convolution with bias, ReLU or none, and Adam for both."""

    def __init__(self, layer: dict, inputs: int, generator: np.random.Generator) -> None:
        self.layer, kernel = layer, layer["kernel"]
        self.depthwise = layer["kind"] == "depthwise"
        shape = (layer["outputs"], kernel, kernel) + (() if self.depthwise else (inputs,))
        fan_in = int(np.prod(shape[1:]))
        weight = generator.normal(size=shape) * np.sqrt(2 / fan_in)
        self.values = [weight.astype(np.float32), np.zeros(shape[0], np.float32)]
        self.moments = [[np.zeros_like(v), np.zeros_like(v)] for v in self.values]

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Also keeps what `backward` needs."""
        weight, bias = self.values
        self.shape, self.seen = x.shape, windows(x, self.layer["kernel"], self.layer["pad"])
        if self.depthwise:
            y = np.einsum("nyxklc,ckl->nyxc", self.seen, weight) + bias
        else:
            y = np.tensordot(self.seen, weight, axes=((3, 4, 5), (1, 2, 3))) + bias
        self.positive = y > 0 if self.layer["relu"] else None
        return y if self.positive is None else y * self.positive

    def backward(self, dy: np.ndarray) -> np.ndarray:
        """Gradient at the input; those of weight and bias are kept."""
        weight = self.values[0]
        if self.positive is not None:
            dy = dy * self.positive
        if self.depthwise:
            dweight = np.einsum("nyxklc,nyxc->ckl", self.seen, dy)
            dseen = dy[:, :, :, None, None] * weight.transpose(1, 2, 0)
        else:
            dweight = np.tensordot(dy, self.seen, axes=((0, 1, 2), (0, 1, 2)))
            dseen = np.tensordot(dy, weight, axes=((3,), (0,)))
        self.gradients = [dweight, dy.sum(axis=(0, 1, 2))]
        return fold(dseen, self.shape, self.layer["pad"])

    def update(self, rate: float, step: int) -> None:
        """One step of Adam with decoupled weight decay."""
        for value, (first, second), gradient in zip(
            self.values, self.moments, self.gradients, strict=True
        ):
            first += 0.1 * (gradient - first)
            second += 0.001 * (gradient * gradient - second)
            scaled = first / (1 - 0.9**step) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
            value -= (rate * (scaled + 1e-3 * value)).astype(np.float32)


class Pool:
    """Maximum or average over windows that do not overlap."""

    def __init__(self, layer: dict) -> None:
        self.kernel, self.maximum = layer["kernel"], layer["kind"] == "max_pool"

    def forward(self, x: np.ndarray) -> np.ndarray:
        n, height, width, channels = x.shape
        k = self.kernel
        self.shape = x.shape
        tiles = x.reshape(n, height // k, k, width // k, k, channels)
        if not self.maximum:
            return tiles.mean(axis=(2, 4))
        y = tiles.max(axis=(2, 4))
        self.mask = tiles == y[:, :, None, :, None]
        return y

    def backward(self, dy: np.ndarray) -> np.ndarray:
        wide = dy[:, :, None, :, None]
        if self.maximum:
            return (
                (wide * self.mask / self.mask.sum(axis=(2, 4), keepdims=True))
                .reshape(self.shape)
                .astype(np.float32)
            )
        n, height, width, channels = self.shape
        k = self.kernel
        tiles = np.broadcast_to(wide / k**2, (n, height // k, k, width // k, k, channels))
        return np.ascontiguousarray(tiles, np.float32).reshape(self.shape)

    def update(self, rate: float, step: int) -> None:
        """Nothing to learn."""


def build(generator: np.random.Generator) -> list:
    """The layers in order."""
    parts, channels = [], 1
    for layer in LAYERS:
        if "pool" in layer["kind"]:
            parts.append(Pool(layer))
        else:
            parts.append(Conv(layer, channels, generator))
            channels = layer["outputs"]
    return parts


def forward(parts: list, x: np.ndarray) -> np.ndarray:
    """Scores [images, 10] of x [images, 8, 8, 1]."""
    for part in parts:
        x = part.forward(x)
    return x.reshape(len(x), -1)


def shifted(x: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Every image moved by -1, 0 or 1 pixel in both directions."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    moves = generator.integers(0, 3, (len(x), 2))
    return np.stack(
        [p[dy : dy + 8, dx : dx + 8] for p, (dy, dx) in zip(padded, moves, strict=True)]
    )


def train(parts: list, x: np.ndarray, labels: np.ndarray, options: argparse.Namespace) -> None:
    """Minimise the cross-entropy; prints progress."""
    generator = np.random.default_rng(options.seed)
    step, begin = 0, time.monotonic()
    for epoch in range(options.epochs):
        order = generator.permutation(len(x))
        rate = options.rate * min(1.0, 2 * (1 - epoch / options.epochs))
        losses = []
        for start in range(0, len(x), options.batch):
            chosen = order[start : start + options.batch]
            scores = forward(parts, shifted(x[chosen], generator))
            scores -= scores.max(axis=1, keepdims=True)
            chance = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
            rows = np.arange(len(chosen))
            losses.append(-np.log(chance[rows, labels[chosen]]).mean())
            chance[rows, labels[chosen]] -= 1
            gradient = (chance / len(chosen)).astype(np.float32)[:, None, None]
            for part in reversed(parts):
                gradient = part.backward(gradient)
            step += 1
            for part in parts:
                part.update(rate, step)
        if epoch % 10 == 9:
            seconds = time.monotonic() - begin
            print(f"epoch {epoch + 1:3d}  loss {np.mean(losses):.4f}  {seconds:.0f} s", flush=True)


def ranges(parts: list, x: np.ndarray) -> dict[str, list[float]]:
    """Lowest and highest activation of every layer with weights over x."""
    found = {}
    for part in parts:
        x = part.forward(x)
        if isinstance(part, Conv):
            found[part.layer["name"]] = [float(x.min()), float(x.max())]
    return found


def accuracy(parts: list, x: np.ndarray, labels: np.ndarray) -> float:
    """Share of right answers."""
    return float((forward(parts, x).argmax(axis=1) == labels).mean())


def save(parts: list, found: dict, held_out: tuple, note: dict, out: Path) -> None:
    """Write weights, network, images and provenance."""
    out.mkdir(parents=True, exist_ok=True)
    convs = [part for part in parts if isinstance(part, Conv)]
    tensors = {f"{c.layer['name']}.weight": c.values[0] for c in convs}
    tensors |= {f"{c.layer['name']}.bias": c.values[1] for c in convs}
    pixels, labels = held_out
    images = {"pixels": pixels[:SHIPPED_IMAGES], "labels": labels[:SHIPPED_IMAGES]}
    for name, content in (("model", tensors), ("images", images)):
        file = out / f"{name}.safetensors"
        save_file({k: np.ascontiguousarray(v) for k, v in content.items()}, file)
        # save_file leaves the file readable by its owner alone, which is wrong for a shared one.
        file.chmod(0o644)
    layers = [layer | {"range": found[layer["name"]]} if layer["name"] in found else layer
              for layer in LAYERS]  # fmt: skip
    network = {"input": [8, 8, 1], "levels": LEVELS, "layers": layers}
    for name, content in (("network.json", network), ("PROVENANCE.json", note)):
        (out / name).write_text(json.dumps(content, indent=2) + "\n")


def parse() -> argparse.Namespace:
    """Command-line arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the weights")
    parser.add_argument("--epochs", type=int, default=80)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=3e-3, help="of Adam")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def split(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the training and of the held-out images."""
    order = np.random.default_rng(0).permutation(count)
    held = np.arange(count) % HELD_OUT_EVERY == 0
    return order[~held], order[held]


def main() -> None:
    """Train, measure and save."""
    options = parse()
    data = load_digits()
    pixels, labels = data.images.astype(np.uint8), data.target.astype(np.uint8)
    training, held = split(len(pixels))
    x = (pixels / LEVELS).astype(np.float32)[..., None]
    parts = build(np.random.default_rng(options.seed))
    train(parts, x[training], labels[training], options)
    right = accuracy(parts, x[held], labels[held])
    note = {
        "images": "Optical Recognition of Handwritten Digits (E. Alpaydin, C. Kaynak; UCI, "
        "CC BY 4.0), as bundled with scikit-learn (BSD 3-Clause)",
        "images_sha256": hashlib.sha256(pixels.tobytes() + labels.tobytes()).hexdigest(),
        "training_images": len(training),
        "held_out_images": len(held),
        "held_out_rule": "every fifth of a seeded permutation, never trained on",
        "shipped_images": SHIPPED_IMAGES,
        "held_out_accuracy": round(right, 4),
        "training_accuracy": round(accuracy(parts, x[training], labels[training]), 4),
        "parameters": sum(v.size for p in parts if isinstance(p, Conv) for v in p.values),
        "weights": "float32",
        "epochs": options.epochs,
        "batch": options.batch,
        "rate": options.rate,
        "seed": options.seed,
        "script": "examples/train_digits.py",
        "scikit-learn": sklearn.__version__,
        "numpy": np.__version__,
    }
    save(parts, ranges(parts, x[training]), (pixels[held], labels[held]), note, options.out)
    print(json.dumps(note, indent=2))


if __name__ == "__main__":
    main()
