"""Tables of measurements: three forms, and what is refused."""

from pathlib import Path

import numpy as np
import pytest

from bankside.errors import ConfigError
from bankside.mapping.gpu.tables import read_table

_VIDUR_OPS = ("attn_pre_proj", "attn_post_proj", "mlp_up_proj", "mlp_down_proj", "add")


def write(path: Path, header: str, rows: list[str]) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def gemm_rows(count: int = 20) -> list[str]:
    return [f"bfloat16,{m},4096,1024,{0.01 * m}" for m in range(1, count + 1)]


def vidur(path: Path, drop: str = "") -> Path:
    """30 rows of Llama-3-8B's shapes on 2 GPUs; the time of an operator is its place in ms."""
    names = [f"time_stats.{op}.median" for op in _VIDUR_OPS if op != drop]
    header = ["n_head", "n_kv_head", "n_embd", "n_expanded_embd", "use_gated_mlp", "num_tokens",
              "num_tensor_parallel_workers", *names]  # fmt: skip
    rows = [f"32,8,4096,14336,True,{m},2," + ",".join(map(str, range(1, len(names) + 1)))
            for m in range(1, 31)]  # fmt: skip
    return write(path, ",".join(header), rows)


def test_aiconfigurator_gemm(tmp_path: Path) -> None:
    table = read_table(write(tmp_path / "x.csv", "gemm_dtype,m,n,k,latency", gemm_rows()))
    assert (table.kind.name, table.form, len(table)) == ("gemm", "aiconfigurator", 20)
    assert table.columns["m"][4] == 5 and (table.columns["n"] == 4096).all()
    assert table.seconds[4] == pytest.approx(50e-6)
    assert not table.gives_overhead and table.file == "x.csv" and len(table.sha256) == 64


@pytest.mark.parametrize("decode", [False, True])
def test_aiconfigurator_attention(tmp_path: Path, decode: bool) -> None:
    header = "batch_size,isl,num_heads,num_key_value_heads,head_dim,window_size,step,latency"
    shape = "1,32,8,128,0,{i}" if decode else "{i},32,8,128,0,0"
    rows = [f"4,{shape.format(i=i)},0.5" for i in range(1, 30)]
    table = read_table(write(tmp_path / "x.csv", header, rows))
    assert table.kind.name == ("decode" if decode else "prefill")
    assert table.seconds[0] == pytest.approx(500e-6)
    length = table.columns["context" if decode else "tokens"]
    assert (length == np.arange(1, 30) + decode).all()
    assert (table.columns["kv_heads"] == 8).all() and (table.columns["requests"] == 4).all()
    if not decode:
        assert (table.columns["rotated"] == 1).all()


def test_vidur(tmp_path: Path) -> None:
    table = read_table(vidur(tmp_path / "mlp.csv"))
    assert (table.kind.name, len(table), table.gives_overhead) == ("gemm", 120, True)
    found = {
        (n, k): 1e3 * s
        for n, k, s in zip(table.columns["n"], table.columns["k"], table.seconds, strict=True)
    }
    assert found == pytest.approx(
        {(3072, 4096): 1, (4096, 2048): 2, (14336, 4096): 3, (4096, 7168): 4}
    )
    streams = read_table(tmp_path / "mlp.csv", "elementwise")
    assert streams.columns["read_bytes"][2] == 3 * 4 * 4096
    assert streams.columns["written_bytes"][2] == 3 * 2 * 4096
    assert (streams.seconds == 5e-3).all()


def test_plain(tmp_path: Path) -> None:
    rows = [f"{8 * i},{i},32,4,1e-4" for i in range(1, 25)]
    header = "requests,context,heads,kv_heads,seconds"
    table = read_table(write(tmp_path / "x.csv", header, rows))
    assert (table.kind.name, table.form) == ("decode", "plain")
    assert (table.columns["head_dim"] == 128).all() and (table.seconds == 1e-4).all()
    prompts = write(tmp_path / "y.csv", header.replace("context", "tokens"), rows)
    assert (read_table(prompts).columns["rotated"] == 0).all()


UNKNOWN = (
    "FILE:1: columns m, n, k, second are of no known form (did you mean 'seconds'?); expected "
    "AIConfigurator's, Vidur's, or plain ones (gemm: m, n, k, seconds)"
)
GOOD = "gemm_dtype,m,n,k,latency"


@pytest.mark.parametrize(
    ("header", "rows", "kind", "message"),
    [
        (GOOD, [], None, "FILE: no rows; expected a header line and measurements below it"),
        (GOOD, gemm_rows(19), None,
         "FILE: 19 rows of kind gemm; expected at least 20; measure more shapes"),
        (GOOD, [*gemm_rows(), "bfloat16,1,2,3"], None,
         "FILE:22: 4 fields; expected 5 as in the header; complete or remove the line"),
        (GOOD, [*gemm_rows(), "bfloat16,1,2,3,fast"], None,
         "FILE:22: latency is 'fast'; expected a number above 0; correct or remove the line"),
        (GOOD, [*gemm_rows(), "bfloat16,1,2,3,0"], None,
         "FILE:22: latency is '0'; expected a number above 0; correct or remove the line"),
        (GOOD, [*gemm_rows(), "bfloat16,-1,2,3,1"], None,
         "FILE:22: m is '-1'; expected a number above 0; correct or remove the line"),
        (GOOD, [*gemm_rows(), "bfloat16,1,2,3,nan"], None,
         "FILE:22: latency is 'nan'; expected a number above 0; correct or remove the line"),
        (GOOD, gemm_rows(), "decode",
         "FILE: holds measurements of kind 'gemm', not 'decode'; drop --kind or give another file"),
        ("m,n,k,m,latency", gemm_rows(), None, "FILE:1: column 'm' is there twice; remove one"),
        ("m,n,k,second", ["1,2,3,4"], "gemm",
         UNKNOWN),
        ("batch_size,isl,num_heads,num_key_value_heads,head_dim,window_size,step,latency",
         ["1,64,8,8,128,4096,0,1"], None,
         "FILE: rows with a window; the models know full attention; remove these rows"),
    ],
)  # fmt: skip
def test_refused(tmp_path: Path, header: str, rows: list[str], kind: str, message: str) -> None:
    path = write(tmp_path / "bad.csv", header, rows)
    with pytest.raises(ConfigError) as error:
        read_table(path, kind)
    assert str(error.value).replace(str(path), "FILE") == message


def test_refused_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_table(tmp_path / "none.csv")
    (tmp_path / "x.csv").write_bytes(b"m,n\n\xff\xfe\n")
    with pytest.raises(ConfigError, match="not UTF-8 text; expected a CSV file"):
        read_table(tmp_path / "x.csv")
    with pytest.raises(ConfigError, match=r"column 'time_stats.mlp_up_proj.median' is missing"):
        read_table(vidur(tmp_path / "mlp.csv", drop="mlp_up_proj"))
