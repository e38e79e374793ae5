"""The HTML report: one page that opens offline, page/page.html with its content filled in.

The content is JSON in script elements with a type that browsers do not run; `page/*.js` inserts it as text. The page's
content security policy allows only its own scripts, by their hashes, and no network access.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from string import Template
from typing import Any

from plotly.offline import get_plotlyjs

from clipstore.files import whole_file
from clipstore.records import Row
from clipstore.reporting.tables import plain

_PAGE = Path(__file__).parent / "page"
_SCRIPTS = (
    "elements",
    "address",
    "content",
    "charts",
    "sections",
    "gallery",
    "map",
    "page",
)  # in order of use
_CHUNK = 100  # thumbnails in one script element, which are decoded together when one of them is shown

# Characters that could end a script element, or a line in old parsers, are written as JSON escapes.
_ESCAPES = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


def write_report(file: Path, title: str, content: Row, thumbnails: Iterable[bytes | None], *, inline: bool) -> int:
    """Write the page, with its thumbnails (WebP, in the order of `content["images"]`) inline or in a folder next to it.

    Returns the number of images without a thumbnail (None).

    Raises:
        OSError: the file cannot be written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    scripts = [get_plotlyjs(), *((_PAGE / f"{name}.js").read_text(encoding="utf-8") for name in _SCRIPTS)]
    before, after = _template(title, scripts).split("<!-- content and scripts -->")
    folder = file.with_name(f"{file.stem}_photos")
    missing: list[int] = []
    with whole_file(file) as temporary, temporary.open("w", encoding="utf-8") as page:
        page.write(before)
        if inline:
            page.writelines(_inline_thumbnails(thumbnails, missing))
        else:
            _write_thumbnails(thumbnails, missing, folder)
        photos = {"folder": None if inline else folder.name, "chunk": _CHUNK, "missing": missing}
        page.write(_data("content", {**content, "photos": photos}))
        page.writelines(f"<script>{script}</script>\n" for script in scripts)
        page.write(after)
    return len(missing)


def _template(title: str, scripts: Iterable[str]) -> str:
    """The page without its content and scripts."""
    return Template((_PAGE / "page.html").read_text(encoding="utf-8")).substitute(
        title=html.escape(title),
        policy=_policy(scripts),
        style=(_PAGE / "page.css").read_text(encoding="utf-8"),
    )


def _policy(scripts: Iterable[str]) -> str:
    """The content security policy. Plotly creates style elements, and functions from text when it draws with WebGL."""
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed} 'unsafe-eval'; style-src 'unsafe-inline'; img-src 'self' data: file:"
    )


def _data(name: str, value: Any) -> str:
    """A value as JSON in a script element that browsers do not run."""
    text = json.dumps(plain(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False).translate(_ESCAPES)
    return f'<script type="application/json" id="{name}">{text}</script>\n'


def _inline_thumbnails(thumbnails: Iterable[bytes | None], missing: list[int]) -> Iterator[str]:
    """Script elements with _CHUNK thumbnails each, in base64; the indices of missing ones are added to `missing`."""
    chunk: list[str | None] = []
    number = 0
    for index, thumbnail in enumerate(thumbnails):
        if thumbnail is None:
            missing.append(index)
        chunk.append(None if thumbnail is None else base64.b64encode(thumbnail).decode())
        if len(chunk) == _CHUNK:
            yield _data(f"thumbnails-{number}", chunk)
            chunk, number = [], number + 1
    yield _data(f"thumbnails-{number}", chunk)


def _write_thumbnails(thumbnails: Iterable[bytes | None], missing: list[int], folder: Path) -> None:
    """Write thumbnails into a folder, named by their index; the indices of missing ones are added to `missing`."""
    folder.mkdir(exist_ok=True)
    for index, thumbnail in enumerate(thumbnails):
        if thumbnail is None:
            missing.append(index)
        else:
            with whole_file(folder / f"{index}.webp", flushed=False) as temporary:
                temporary.write_bytes(thumbnail)
