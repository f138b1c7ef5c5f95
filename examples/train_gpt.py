r"""Train the two small byte-level language models that ship in `mapping/models/`.

PyTorch is needed here and nowhere else: `pip install torch==2.13.0 safetensors` in a separate
virtual environment. The models are plain Llama decoders (RMSNorm, RoPE in the half-split layout,
SwiGLU, tied embeddings) over the 256 byte values, written in the Hugging Face layout, so that
`bankside.mapping.llm.loader` reads them as it reads any other Llama folder.

`--text` takes any plain text in the public domain. The shipped weights saw the King James Bible,
one verse a line without its reference; on Debian or Ubuntu (as root for the first line):

    apt-get install bible-kjv
    bible -f "ge1:1-rev22:21" | sed 's/^[^ ]* //' > kjv.txt
    python examples/train_gpt.py --text kjv.txt --model mha --out mapping/models/gpt_mha
    python examples/train_gpt.py --text kjv.txt --model gqa --start mapping/models/gpt_mha \
        --rate 0.01 --steps 1200 --out mapping/models/gpt_gqa

The second model starts from the embedding, the feed-forward parts and the gains of the first; its
attention, whose matrices have other shapes, starts at random.

The seed, the held-out split and the schedule are fixed; the same machine, thread count and
PyTorch give the same weights. Every 20th block of 8 KiB is held out and never trained on.
"""

import argparse
import hashlib
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import load_file, save_file
from torch import nn

VOCABULARY = 256
HELD_OUT_BLOCK = 8192
HELD_OUT_EVERY = 20
SAMPLE_PROMPT = b"And it came to pass"


@dataclass(frozen=True)
class Shape:
    """Sizes of one decoder; every width is in elements."""

    query_heads: int
    kv_heads: int
    head_dim: int
    layers: int = 4
    hidden: int = 128
    intermediate: int = 384
    context: int = 256
    rope_theta: float = 10000.0
    epsilon: float = 1e-5


SHAPES = {
    "mha": Shape(query_heads=2, kv_heads=2, head_dim=64),
    "gqa": Shape(query_heads=8, kv_heads=2, head_dim=32),
}


def rope_tables(shape: Shape) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines [context, head_dim] of the half-split rotary embedding."""
    inverse = shape.rope_theta ** (-torch.arange(0, shape.head_dim, 2).double() / shape.head_dim)
    angles = torch.arange(shape.context).double()[:, None] * inverse[None, :]
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos().float(), angles.sin().float()


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate [batch, heads, tokens, head_dim] pairs (i, i + head_dim / 2)."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


class Attention(nn.Module):
    """Causal self-attention with grouped queries."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.q_proj = nn.Linear(shape.hidden, shape.query_heads * shape.head_dim, bias=False)
        self.k_proj = nn.Linear(shape.hidden, shape.kv_heads * shape.head_dim, bias=False)
        self.v_proj = nn.Linear(shape.hidden, shape.kv_heads * shape.head_dim, bias=False)
        self.o_proj = nn.Linear(shape.query_heads * shape.head_dim, shape.hidden, bias=False)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        batch, tokens, _ = x.shape

        def heads(y: torch.Tensor) -> torch.Tensor:
            return y.view(batch, tokens, -1, self.shape.head_dim).transpose(1, 2)

        q = rotate(heads(self.q_proj(x)), cos[:tokens], sin[:tokens])
        k = rotate(heads(self.k_proj(x)), cos[:tokens], sin[:tokens])
        y = F.scaled_dot_product_attention(
            q, k, heads(self.v_proj(x)), is_causal=True, enable_gqa=q.shape[1] != k.shape[1]
        )
        return self.o_proj(y.transpose(1, 2).reshape(batch, tokens, -1))


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden, shape.intermediate, bias=False)
        self.up_proj = nn.Linear(shape.hidden, shape.intermediate, bias=False)
        self.down_proj = nn.Linear(shape.intermediate, shape.hidden, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """Pre-normalised attention and feed-forward; attribute names are the Hugging Face ones."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(shape.hidden, eps=shape.epsilon)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = nn.RMSNorm(shape.hidden, eps=shape.epsilon)
        self.mlp = FeedForward(shape)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    """Llama decoder; the embedding is also the output matrix."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(VOCABULARY, shape.hidden)
        self.layers = nn.ModuleList([Layer(shape) for _ in range(shape.layers)])
        self.norm = nn.RMSNorm(shape.hidden, eps=shape.epsilon)
        self.tables = rope_tables(shape)
        self.apply(self._initialise)

    def _initialise(self, module: nn.Module) -> None:
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.05)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.5 / math.sqrt(module.in_features))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits [batch, tokens, 256] of byte ids [batch, tokens]."""
        x = self.embed_tokens(tokens)
        for layer in self.layers:
            x = layer(x, *self.tables)
        return F.linear(self.norm(x), self.embed_tokens.weight)


def start_from(model: Decoder, folder: Path) -> None:
    """Copy every tensor of `folder` that has the name and the shape of a parameter."""
    known = load_file(folder / "model.safetensors")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            tensor = known.get(f"model.{name}")
            if tensor is not None and tensor.shape == tuple(parameter.shape):
                parameter.copy_(torch.from_numpy(tensor).float())


def split(text: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Training and held-out bytes: every 20th block of 8 KiB is held out."""
    blocks = [text[i : i + HELD_OUT_BLOCK] for i in range(0, len(text), HELD_OUT_BLOCK)]
    train = [b for i, b in enumerate(blocks) if i % HELD_OUT_EVERY != HELD_OUT_EVERY - 1]
    held_out = blocks[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY]
    if not held_out:
        raise SystemExit(f"the text has {len(text)} bytes; at least 160 KiB are needed")
    return np.concatenate(train), np.concatenate(held_out)


def batch_of(
    data: np.ndarray, generator: np.random.Generator, size: int, length: int
) -> torch.Tensor:
    """Random windows [size, length + 1] of byte ids."""
    starts = generator.integers(0, len(data) - length - 1, size)
    return torch.from_numpy(np.stack([data[s : s + length + 1] for s in starts]).astype(np.int64))


@torch.no_grad()
def held_out_bits(model: Decoder, data: np.ndarray, windows: int) -> float:
    """Mean bits per byte over the first `windows` windows of one context each."""
    length = model.shape.context
    total, count = 0.0, 0
    for start in range(0, min(len(data) - length, windows * length), length):
        ids = torch.from_numpy(data[start : start + length].astype(np.int64))[None]
        logits = model(ids[:, :-1])
        total += F.cross_entropy(logits[0], ids[0, 1:], reduction="sum").item()
        count += length - 1
    return total / count / math.log(2)


def optimisers(model: Decoder, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for the embedding and the gains."""
    matrices = [p for p in model.layers.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(matrices, lr=rate, momentum=0.95, weight_decay=0.01, ns_steps=4),
        torch.optim.AdamW(others, lr=rate / 5, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def rate_factor(step: int, steps: int) -> float:
    """Warm-up over 50 steps, constant, then linear to zero over the last 60 %."""
    return min(1.0, (step + 1) / 50, max(0.0, (steps - step) / (0.6 * steps)))


def train(
    model: Decoder, data: np.ndarray, held_out: np.ndarray, arguments: argparse.Namespace
) -> None:
    """Minimise the cross-entropy of the next byte; prints progress."""
    generator = np.random.default_rng(arguments.seed)
    opts = optimisers(model, arguments.rate)
    base = [group["lr"] for opt in opts for group in opt.param_groups]
    begin = time.monotonic()
    for step in range(arguments.steps):
        groups = [group for opt in opts for group in opt.param_groups]
        for group, rate in zip(groups, base, strict=True):
            group["lr"] = rate * rate_factor(step, arguments.steps)
        ids = batch_of(data, generator, arguments.batch, model.shape.context)
        # bfloat16 products halve the time of a step; parameters and their updates stay float32.
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(ids[:, :-1])
        loss = F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())
        for opt in opts:
            opt.zero_grad(set_to_none=True)
        loss.backward()
        for opt in opts:
            opt.step()
        if step % 250 == 0:
            bits = held_out_bits(model, held_out, 16)
            print(
                f"step {step:5d}  train {loss.item() / math.log(2):.3f}  held out {bits:.3f} "
                f"bits per byte  {time.monotonic() - begin:.0f} s",
                flush=True,
            )


@torch.no_grad()
def sample(model: Decoder, prompt: bytes, new_bytes: int) -> bytes:
    """Greedy continuation, for a look at the result."""
    ids = list(prompt)
    for _ in range(new_bytes):
        logits = model(torch.tensor([ids[-model.shape.context :]]))
        ids.append(int(logits[0, -1].argmax()))
    return bytes(ids)


def half_weights(model: Decoder) -> dict[str, np.ndarray]:
    """Round every parameter of `model` to float16 in place and return them by Hugging Face name."""
    weights = {}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            half = parameter.to(torch.float16)
            # Evaluating the rounded weights keeps the printed figures those of the shipped file.
            parameter.copy_(half.float())
            weights[f"model.{name}"] = half.numpy()
    return weights


def hf_config(shape: Shape) -> dict[str, object]:
    """`config.json` with the keys of a Hugging Face Llama."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.query_heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "max_position_embeddings": shape.context,
        "rms_norm_eps": shape.epsilon,
        "rope_theta": shape.rope_theta,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        "torch_dtype": "float16",
    }


def save(
    model: Decoder,
    text: bytes,
    bits: float,
    sizes: tuple[int, int],
    arguments: argparse.Namespace,
    weights: dict[str, np.ndarray],
) -> None:
    """Write model.safetensors, config.json and PROVENANCE.json to `--out`."""
    arguments.out.mkdir(parents=True, exist_ok=True)
    file = arguments.out / "model.safetensors"
    save_file(weights, file, metadata={"format": "pt"})
    # save_file leaves the file readable by its owner alone, which is wrong for a shared one.
    file.chmod(0o644)
    note = {
        "text": arguments.source,
        "text_sha256": hashlib.sha256(text).hexdigest(),
        "training_bytes": sizes[0],
        "held_out_bytes": sizes[1],
        "held_out_rule": "every 20th block of 8 KiB, never trained on",
        "held_out_bits_per_byte": round(bits, 4),
        "parameters": sum(w.size for w in weights.values()),
        "weights": "float16",
        "started_from": arguments.start.name if arguments.start else "random weights",
        "steps": arguments.steps,
        "batch": arguments.batch,
        "context": model.shape.context,
        "rate": arguments.rate,
        "seed": arguments.seed,
        "threads": arguments.threads,
        "script": "examples/train_gpt.py",
        "torch": torch.__version__,
    }
    for name, content in (("config.json", hf_config(model.shape)), ("PROVENANCE.json", note)):
        (arguments.out / name).write_text(json.dumps(content, indent=2) + "\n")
    print(json.dumps(note, indent=2))


def parse() -> argparse.Namespace:
    """Command-line arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, required=True, help="public-domain text")
    parser.add_argument(
        "--source",
        default="King James Bible, public domain (Debian package bible-kjv), one verse a line",
        help="provenance of the text",
    )
    parser.add_argument("--model", choices=sorted(SHAPES), required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder for the weights")
    parser.add_argument("--start", type=Path, help="model folder to take fitting tensors from")
    parser.add_argument("--steps", type=int, default=7000)
    parser.add_argument("--batch", type=int, default=8, help="windows of one context per step")
    parser.add_argument("--rate", type=float, default=0.02, help="peak learning rate of Muon")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    """Train, round to float16, measure and save."""
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    text = arguments.text.read_bytes()
    data, held_out = split(np.frombuffer(text, np.uint8))
    model = Decoder(SHAPES[arguments.model])
    if arguments.start is not None:
        start_from(model, arguments.start)
    train(model, data, held_out, arguments)
    weights = half_weights(model)
    bits = held_out_bits(model, held_out, len(held_out))
    print(sample(model, SAMPLE_PROMPT, 200).decode("utf-8", "replace"))
    save(model, text, bits, (len(data), len(held_out)), arguments, weights)


if __name__ == "__main__":
    main()
