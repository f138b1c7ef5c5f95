"""Building blocks of HTML reports: self-contained pages without scripts."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence


def e(value: object) -> str:
    """Text, escaped."""
    return html.escape(str(value))


def section(title: str, *parts: str) -> str:
    """A section with its heading; `parts` are HTML."""
    return f"<section><h2>{e(title)}</h2>{''.join(parts)}</section>"


def paragraph(text: str) -> str:
    """A paragraph; `text` is HTML."""
    return f"<p>{text}</p>"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], numeric_from: int = 1) -> str:
    """A table of plain text; columns from `numeric_from` on are right-aligned."""

    def cells(tag: str, values: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{' class=n' if i >= numeric_from else ''}>{e(v)}</{tag}>"
            for i, v in enumerate(values)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return (
        f"<div class=scroll><table><thead><tr>{cells('th', header)}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def card(state: str, title: str, value: str, note: str) -> str:
    """One figure with its heading and a note; state: good, bad, blue or grey."""
    return (
        f'<div class="card {state}"><div class=t>{e(title)}</div><div class=v>{e(value)}</div>'
        f"<div class=s>{e(note)}</div></div>"
    )



_STYLE = """
:root{--ink:#26323d;--soft:#5c6b79;--line:#dfe5ea;--paper:#fff;--back:#f3f6f8}
*{box-sizing:border-box}
body{margin:0;background:var(--back);color:var(--ink);
font:15px/1.55 system-ui,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
main{max-width:1060px;margin:0 auto;padding:28px 20px 60px}
h1{font-size:27px;margin:0 0 6px;letter-spacing:-.2px}
h2{font-size:19px;margin:0 0 12px}h3{font-size:16px;margin:26px 0 8px}
.sub{color:var(--soft);margin:0 0 18px;max-width:90ch}
section{background:var(--paper);border:1px solid var(--line);border-radius:10px;
padding:20px 24px;margin:18px 0}
p{max-width:95ch;margin:10px 0}
ul{padding-left:22px;max-width:100ch}li{margin:4px 0}
svg{width:100%;height:auto;display:block;margin:4px 0}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(180px,1fr));gap:12px}
.card{background:var(--paper);border:1px solid var(--line);border-left:5px solid #9aa7b2;
border-radius:8px;padding:12px 14px}
.card .t{color:var(--soft);font-size:13px}.card .v{font-size:22px;font-weight:650;margin:2px 0}
.card .s{color:var(--soft);font-size:12.5px;line-height:1.4}
.good{border-left-color:#1b8a5a}.good .v{color:#14694a}.bad{border-left-color:#c0392b}
.bad .v{color:#c0392b}.blue{border-left-color:#1f5fa8}
pre{background:#f7f9fa;border:1px solid var(--line);border-radius:8px;padding:12px 14px;
overflow-x:auto;font:13.5px/1.5 ui-monospace,"DejaVu Sans Mono",monospace}
pre.text{white-space:pre-wrap;font-size:16px;line-height:1.6}.prompt{color:#8794a0}
.mono{font:13px/1.5 ui-monospace,"DejaVu Sans Mono",monospace}
.scroll{overflow-x:auto;margin:12px 0}
table{border-collapse:collapse;font-size:13.5px;width:100%}
th{text-align:left;color:var(--soft);font-weight:600;border-bottom:2px solid var(--line)}
th,td{padding:5px 10px;vertical-align:top}td{border-bottom:1px solid #eef1f4}
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
summary{cursor:pointer;color:var(--soft)}
"""


def page(title: str, body: str) -> str:
    """The whole document; `body` is HTML."""
    return (
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        f"<title>{e(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body><main>{body}</main></body></html>\n"
    )
