"""The notebooks as pages that need nothing but a browser: `python tutorials/build.py --html DIR`.

Each page is one file: pictures, sliders, typeset equations (MathML) and style are in it, and it
fetches nothing. The reference is every public name with its docstring, made by pdoc. Pages and
reference link to each other.
"""

from __future__ import annotations

import importlib
import re
from html import escape, unescape
from pathlib import Path

import latex2mathml.converter
import nbformat
import pdoc
import pdoc.render
from nbconvert import HTMLExporter
from pygments.formatters import HtmlFormatter

HERE = Path(__file__).parent
ROOMS = ("lpnorm", "lpnorm.norms", "lpnorm.batchnorm", "lpnorm.weightnorm", "lpnorm.decay")
ROOMS += ("lpnorm.nn", "lpnorm.models", "lpnorm.data", "lpnorm.training", "lpnorm.verify")
CLOSED = ("lpnorm.decay", "lpnorm.nn")  # pdoc finds them by itself: they are names of lpnorm
STYLE = """
:root { color-scheme: light; }
body { font: 17px/1.55 Georgia, serif; color: #222; margin: 0; background: #fff; }
nav, main { max-width: 52rem; margin: 0 auto; padding: 0 1rem; }
nav { font: 15px/2.4 system-ui, sans-serif; border-bottom: 1px solid #ddd; }
nav a { margin-right: 1.2em; }
h1, h2, h3 { font-family: system-ui, sans-serif; line-height: 1.25; margin: 1.6em 0 .5em; }
a { color: #0072b2; }
a.anchor-link { display: none; }
img { max-width: 100%; height: auto; }
pre, code { font: 14px/1.45 ui-monospace, Menlo, Consolas, monospace; }
pre { overflow-x: auto; padding: .6em .8em; margin: .6em 0; }
.highlight { background: #f6f6f4; border-left: 3px solid #ccd; }
.jp-InputPrompt, .jp-OutputPrompt, .jp-OutputArea-prompt { display: none; }
.equation { display: flex; align-items: center; justify-content: center; overflow-x: auto; }
.equation math { margin: .6em auto; }
.equation .tag { padding-left: 1em; }
table { border-collapse: collapse; display: block; overflow-x: auto; font-size: 15px; }
td, th { padding: .25em .7em; border-bottom: 1px solid #ddd; text-align: left; }
details { background: #f2f6fa; padding: .2em .8em; margin: .6em 0; }
.frames { border: 1px solid #dde; padding: .4em .8em; }
.frames input { width: min(24rem, 60%); vertical-align: middle; }
@media print { nav, .frames label { display: none; } pre { white-space: pre-wrap; } }
"""
MATH = re.compile(r"\$\$(.+?)\$\$|(?<![\\$`])\$([^$`]+?)\$", re.DOTALL)


def typeset(tex: str, block: bool) -> str:
    """An equation as MathML, its \\tag beside it."""
    tag = re.search(r"\\tag\{(.+?)\}", tex)
    tex = re.sub(r"\\tag\{.+?\}", "", tex).replace(r"\big", "")
    math = latex2mathml.converter.convert(tex.strip(), display="block" if block else "inline")
    if not block:
        return math
    number = f'<span class="tag">({tag[1]})</span>' if tag else ""
    return f'<span class="equation">{math}{number}</span>'


def page(title: str, body: str, links: list[tuple[str, str]]) -> str:
    """A whole page."""
    nav = "".join(f'<a href="{href}">{escape(words)}</a>' for href, words in links)
    style = STYLE + HtmlFormatter(style="friendly").get_style_defs(".highlight")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title><style>{style}</style>'
        f"</head><body><nav>{nav}</nav><main>{body}</main></body></html>\n"
    )


def notebook_body(notebook: nbformat.NotebookNode) -> str:
    """The cells with their outputs, equations typeset. They pass Markdown as words of their own."""
    kept: list[str] = []

    def word(found: re.Match[str]) -> str:
        kept.append(typeset(found[1] or found[2], found[1] is not None))
        return f"EQUATION{len(kept) - 1:05d}HERE"

    notebook = nbformat.from_dict(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = MATH.sub(word, cell.source)
    exporter = HTMLExporter(template_name="basic")
    exporter.exclude_input_prompt = exporter.exclude_output_prompt = True
    body, _ = exporter.from_notebook_node(notebook)
    body = re.sub(r"EQUATION(\d{5})HERE", lambda found: kept[int(found[1])], body)

    def named(found: re.Match[str]) -> str:
        below = re.search(r"<strong>(Figure \d+)\.</strong>", body[found.end() :])
        return f'alt="{below[1]}, described below"' if below else 'alt="a figure"'

    return re.sub(r'alt="No description[^"]*"', named, body)


def linked(body: str, names: dict[str, str]) -> str:
    """Links to other notebooks lead to their pages, names of the library to the reference."""
    body = re.sub(r'href="(\d\d_\w+)\.ipynb', r'href="\1.html', body)

    def to_reference(found: re.Match[str]) -> str:
        name = unescape(found[1]).split("(")[0]
        where = names.get(name) or names.get(f"lpnorm.{name}")
        return f'<a href="{where}">{found[0]}</a>' if where else found[0]

    return re.sub(r"<code>([\w.]+(?:\([^<]*\))?)</code>", to_reference, body)


def public_names() -> dict[str, str]:
    """Every public name of the rooms, and where the reference has it."""
    found = {}
    for room in ROOMS:
        module = importlib.import_module(room)
        path = "reference/" + room.replace(".", "/") + ".html"
        found[room] = path
        for name in pdoc.doc.Module(module).members if room != "lpnorm" else module.__all__:
            if not name.startswith("_"):
                found[f"{room}.{name}"] = f"{path}#{name}"
    return found


def reference(folder: Path) -> None:
    """pdoc's pages of the rooms, each with a way back."""
    pdoc.render.configure(docformat="markdown", show_source=False, search=False)
    pdoc.pdoc(*(room for room in ROOMS if room not in CLOSED), output_directory=folder)
    for path in folder.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        up = "../" * (len(path.relative_to(folder).parts))
        back = (
            f'<main class="pdoc"><p><a href="{up}index.html">Tutorials</a> · '
            f'<a href="{up}derivations.html">Derivations, typeset</a></p>'
        )
        path.write_text(text.replace('<main class="pdoc">', back, 1), encoding="utf-8")


def write(folder: Path, sources: list[Path]) -> None:
    """The whole site, into a folder; what else lies there stays."""
    folder.mkdir(parents=True, exist_ok=True)
    reference(folder / "reference")
    names, rows, pages = public_names(), [], []
    for source in sources:
        notebook = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
        title = notebook.cells[0].source.splitlines()[0].lstrip("# ")
        pages.append((source.stem, title, linked(notebook_body(notebook), names)))
    text = (HERE / "derivations.md").read_text(encoding="utf-8")
    cell = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)])
    home = [("index.html", "All tutorials"), ("reference/lpnorm.html", "Reference")]
    derived = page("Derivations", linked(notebook_body(cell), names), home)
    (folder / "derivations.html").write_text(derived, encoding="utf-8")
    for i, (stem, title, body) in enumerate(pages):
        links = list(home)
        links += [(f"{s}.html", f"← {t}") for s, t, _ in pages[i - 1 : i] if i]
        links += [(f"{s}.html", f"{t} →") for s, t, _ in pages[i + 1 : i + 2]]
        (folder / f"{stem}.html").write_text(page(title, body, links), encoding="utf-8")
        rows.append(f'<li><a href="{stem}.html">{stem[:2]}: {escape(title)}</a></li>')
    body = (
        "<h1>lpnorm: tutorials and reference</h1><p>A reference of <em>Norm matters</em> (Hoffer, "
        "Banner, Golan, Soudry, NeurIPS 2018). Everything on these pages was computed; the sliders "
        f"move without a kernel.</p><ul>{''.join(rows)}</ul>"
        '<p><a href="derivations.html">The derivations in one page</a></p>'
        '<p><a href="reference/lpnorm.html">Reference: every public name</a></p>'
    )
    links = [("reference/lpnorm.html", "Reference")]
    (folder / "index.html").write_text(page("lpnorm", body, links), encoding="utf-8")
