"""The report as one page that opens from disk: page/page.html, filled.

All that was measured goes in as JSON, in script elements of a type that nothing runs, and `page/*.js` puts it in as
text. The page's policy lets no script run but its own, by their hashes, and lets nothing be fetched.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from string import Template
from typing import Any

from plotly.offline import get_plotlyjs

from clipstore.reporting.tables import plain

_PAGE = Path(__file__).parent / "page"
_SCRIPTS = ("elements", "address", "content", "charts", "sections", "gallery", "map", "page")  # each after what it uses
_CHUNK = 100  # photos of one script element: decoded together when one of them is to be seen

# What would end the script element, or a line of it in an old parser: written as JSON's escapes.
_ESCAPES = {ord(letter): f"\\u{ord(letter):04x}" for letter in "<>&\u2028\u2029"}


def write_report(
    file: Path, title: str, content: Mapping[str, Any], photos: Iterable[bytes | None], *, inline: bool
) -> int:
    """Write the page, and its photos (WebP, in the order of `content["images"]`) into it or into a folder beside it.

    Returns how many photos there are not (None).

    Raises:
        OSError: the file cannot be written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    scripts = [get_plotlyjs(), *((_PAGE / f"{name}.js").read_text(encoding="utf-8") for name in _SCRIPTS)]
    before, after = (
        Template((_PAGE / "page.html").read_text(encoding="utf-8"))
        .substitute(
            title=html.escape(title),
            policy=_policy(scripts),
            style=(_PAGE / "page.css").read_text(encoding="utf-8"),
        )
        .split("<!-- content and scripts -->")
    )
    folder = file.with_name(f"{file.stem}_photos")
    missing: list[int] = []
    partial = file.with_name(f".{file.name}.partial")
    with partial.open("w", encoding="utf-8") as page:
        page.write(before)
        page.writelines(_inline(photos, missing) if inline else _beside(photos, missing, folder))
        told = {**content, "photos": {"folder": None if inline else folder.name, "chunk": _CHUNK, "missing": missing}}
        page.write(_data("content", told))
        page.writelines(f"<script>{script}</script>\n" for script in scripts)
        page.write(after)
    partial.replace(file)
    return len(missing)


def _policy(scripts: Iterable[str]) -> str:
    """The content security policy. Plotly makes style elements, and functions from text where it draws by WebGL."""
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed} 'unsafe-eval'; style-src 'unsafe-inline'; img-src 'self' data: file:"
    )


def _data(name: str, value: Any) -> str:
    """A value in a script element that nothing runs."""
    text = json.dumps(plain(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False).translate(_ESCAPES)
    return f'<script type="application/json" id="{name}">{text}</script>\n'


def _inline(photos: Iterable[bytes | None], missing: list[int]) -> Iterator[str]:
    """Script elements with _CHUNK photos each, in base64; the places of those that are not there go into `missing`."""
    chunk: list[str | None] = []
    number = 0
    for place, photo in enumerate(photos):
        if photo is None:
            missing.append(place)
        chunk.append(None if photo is None else base64.b64encode(photo).decode())
        if len(chunk) == _CHUNK:
            yield _data(f"photos-{number}", chunk)
            chunk, number = [], number + 1
    yield _data(f"photos-{number}", chunk)


def _beside(photos: Iterable[bytes | None], missing: list[int], folder: Path) -> Iterator[str]:
    """Write the photos into the folder, named by their places; nothing goes into the page."""
    folder.mkdir(exist_ok=True)
    for place, photo in enumerate(photos):
        if photo is None:
            missing.append(place)
        else:
            (folder / f"{place}.webp").write_bytes(photo)
    yield ""
