"""The panel of `clipstore retrieve`: an image with a row per query and a column per model, drawn with Pillow.

The panel is composed of small images, placed next to and below one another.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from functools import cache
from math import ceil
from pathlib import Path, PurePath
from typing import cast

from PIL import Image, ImageDraw, ImageFont, ImageOps

from clipstore.files import whole_file
from clipstore.records import Row

Thumbnails = Mapping[str, Image.Image]

THUMBNAIL_SIDE = 400  # pixels of the longer side of a thumbnail, at least the largest size drawn

_MAX_QUERIES, _MAX_HITS = 20, 10  # shown, so that a panel stays readable
_MARGIN, _GAP, _PAD = 32, 16, 8
_QUERY_COLUMN, _MODEL_COLUMN, _COLUMN_GAP = 280, 600, 32
_SMALL, _LARGE = 64, 178  # sides of a hit's thumbnail: next to its caption, and alone
_PER_LINE = 3  # image hits in a line
_BACKGROUND, _FOREGROUND, _PALE, _LINE, _EMPTY = "#ffffff", "#1f2328", "#59636e", "#d1d9e0", "#eaeef2"
_RIGHT = "#116329"
_TEXT, _NOTE, _HEADING = 17, 14, 22  # font sizes, in pixels
_LEADING = 1.35
_QUERY_LINES, _CAPTION_LINES, _NAME_LINES = 8, 4, 3
_UNKNOWN = "\uffff"  # a character that no font has


def shown_queries(result: Row) -> list[Row]:
    """The queries that a panel shows, with the hits of each model that it shows."""
    return [
        {**query, "answers": [{**answer, "hits": answer["hits"][:_MAX_HITS]} for answer in query["answers"]]}
        for query in result["queries"][:_MAX_QUERIES]
    ]


def write_panel(file: Path, result: Row, thumbnails: Thumbnails, notes: Sequence[str]) -> None:
    """Draw the result of a search into a PNG file, with `notes` at the bottom.

    Raises:
        OSError: the file cannot be written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(file) as temporary:
        draw_panel(result, thumbnails, notes).save(temporary, format="PNG")


def draw_panel(result: Row, thumbnails: Thumbnails, notes: Sequence[str]) -> Image.Image:
    """The result of a search, as `clipstore retrieve --json` prints it, as an RGB image.

    `thumbnails` are by query name and by the path of a hit; without one, the name of the image file is drawn. A hit
    that is right has a frame, a check mark and the word "right".
    """
    models = [model["model"] for model in result["models"]]
    width = _QUERY_COLUMN + len(models) * (_COLUMN_GAP + _MODEL_COLUMN)
    first, *others = [
        _text(title, _HEADING, _QUERY_COLUMN, lines=2) for title in (f"query, {result['split']}", *models)
    ]
    parts = [_columns(first, others)]
    for query in shown_queries(result):
        parts += [_rule(width), _query_row(query, models, thumbnails)]
    footer = [_text(note, _NOTE, width, ink=_PALE) for note in [*_footnotes(result), *notes]]
    body = _stack([*parts, _rule(width), _stack(footer)], gap=_GAP)
    sheet = Image.new("RGB", (body.width + 2 * _MARGIN, body.height + 2 * _MARGIN), _BACKGROUND)
    sheet.paste(body, (_MARGIN, _MARGIN))
    return sheet


def _footnotes(result: Row) -> list[str]:
    """The meaning of the marks, and what the panel leaves out."""
    lines = ["framed and marked as right: a caption of the query image, or an image that has the query as a caption"]
    if len(result["queries"]) > _MAX_QUERIES:
        lines.append(f"the first {_MAX_QUERIES} of {len(result['queries']):,} queries")
    if result["top"] > _MAX_HITS:
        lines.append(f"the first {_MAX_HITS} of {result['top']:,} hits")
    return lines + [f"skipped: {failure['query']}: {failure['reason']}" for failure in result["failures"][:_MAX_HITS]]


def _query_row(query: Row, models: Sequence[str], thumbnails: Thumbnails) -> Image.Image:
    """A query, and the hits of each model."""
    if query["kind"] == "image":
        name = PurePath(query["query"]).name or query["query"]
        note = "in the split" if query["in_split"] else "not in the split"
        parts = [
            _thumbnail(query["query"], _QUERY_COLUMN, thumbnails),
            _text(name, _NOTE, _QUERY_COLUMN, ink=_PALE, lines=_NAME_LINES),
        ]
    else:
        note = "a caption of the split" if query["in_split"] else "not a caption of the split"
        parts = [_text(query["query"], _HEADING, _QUERY_COLUMN, lines=_QUERY_LINES)]
    parts.append(_text(note, _NOTE, _QUERY_COLUMN, ink=_PALE))
    hits = {answer["model"]: answer["hits"] for answer in query["answers"]}
    none = _text("no result", _NOTE, _MODEL_COLUMN, ink=_PALE)
    cells = [_hits(query["kind"], hits[model], thumbnails) if model in hits else none for model in models]
    return _columns(_stack(parts), cells)


def _hits(kind: str, hits: Sequence[Row], thumbnails: Thumbnails) -> Image.Image:
    if kind == "image":
        return _stack([_caption_hit(hit, thumbnails) for hit in hits])
    tiles = [_image_hit(hit, thumbnails) for hit in hits]
    return _stack([_side_by_side(tiles[at : at + _PER_LINE], _PAD) for at in range(0, len(tiles), _PER_LINE)])


def _caption_hit(hit: Row, thumbnails: Thumbnails) -> Image.Image:
    """A caption, next to its image."""
    width = _MODEL_COLUMN - 2 * _PAD - _SMALL - _GAP
    text = [_score(hit), _text(hit["caption"], _TEXT, width, lines=_CAPTION_LINES)]
    image = _square(_thumbnail(hit["photo"], _SMALL, thumbnails), _SMALL)
    return _framed(_side_by_side([image, _stack(text, gap=2)]), _MODEL_COLUMN, right=hit["right"])


def _image_hit(hit: Row, thumbnails: Thumbnails) -> Image.Image:
    image = _square(_thumbnail(hit["photo"], _LARGE, thumbnails), _LARGE)
    return _framed(_stack([image, _score(hit)]), _LARGE + 2 * _PAD, right=hit["right"])


def _score(hit: Row) -> Image.Image:
    """The position and score of a hit, and a mark if it is right."""
    text = _text(f"{hit['position']}.  {hit['score']:.4f}", _NOTE, _LARGE, ink=_PALE)
    return _side_by_side([text, _mark()], gap=_PAD) if hit["right"] else text


@cache
def _mark() -> Image.Image:
    """A check mark and the word "right", white on green."""
    word = _text("right", _NOTE, _LARGE, ink=_BACKGROUND, paper=_RIGHT)
    mark = Image.new("RGB", (word.width + 30, word.height + 2), _BACKGROUND)
    pen = ImageDraw.Draw(mark)
    pen.rounded_rectangle((0, 0, mark.width - 1, mark.height - 1), radius=5, fill=_RIGHT)
    middle = mark.height // 2
    pen.line([(7, middle), (11, middle + 4), (18, middle - 5)], fill=_BACKGROUND, width=2, joint="curve")
    mark.paste(word, (23, 1))
    return mark


def _framed(part: Image.Image, width: int, *, right: bool | None) -> Image.Image:
    """A hit with padding, and a frame if it is right."""
    framed = Image.new("RGB", (width, part.height + 2 * _PAD), _BACKGROUND)
    framed.paste(part, (_PAD, _PAD))
    if right:
        edge = (0, 0, framed.width - 1, framed.height - 1)
        ImageDraw.Draw(framed).rounded_rectangle(edge, radius=8, outline=_RIGHT, width=3)
    return framed


def _thumbnail(name: str, side: int, thumbnails: Thumbnails) -> Image.Image:
    """A thumbnail scaled to fit a square of this side; without one, the name of the image file."""
    if name in thumbnails:
        return ImageOps.contain(thumbnails[name].convert("RGB"), (side, side))
    placeholder = Image.new("RGB", (side, side), _EMPTY)
    inside = side - 2 * (_PAD // 2)
    text = _text(f"no image: {PurePath(name).name}", _NOTE if side > _SMALL else 10, inside, paper=_EMPTY)
    placeholder.paste(text.crop((0, 0, text.width, min(text.height, inside))), (_PAD // 2, _PAD // 2))
    return placeholder


def _square(image: Image.Image, side: int) -> Image.Image:
    """An image in the middle of a square."""
    square = Image.new("RGB", (side, side), _EMPTY)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def _rule(width: int) -> Image.Image:
    return Image.new("RGB", (width, 1), _LINE)


def _columns(query: Image.Image, results: Sequence[Image.Image]) -> Image.Image:
    """A row of the panel: the query, and the result of each model, each padded to the width of its column."""
    padded = [_padded(query, _QUERY_COLUMN), *(_padded(result, _MODEL_COLUMN) for result in results)]
    return _side_by_side(padded, _COLUMN_GAP)


def _padded(part: Image.Image, width: int) -> Image.Image:
    """An image extended to the right to this width."""
    padded = Image.new("RGB", (width, part.height), _BACKGROUND)
    padded.paste(part)
    return padded


def _side_by_side(parts: Sequence[Image.Image], gap: int = _GAP) -> Image.Image:
    """Images from left to right, aligned at the top."""
    width = sum(part.width for part in parts) + gap * (len(parts) - 1)
    sheet = Image.new("RGB", (width, max(part.height for part in parts)), _BACKGROUND)
    left = 0
    for part in parts:
        sheet.paste(part, (left, 0))
        left += part.width + gap
    return sheet


def _stack(parts: Sequence[Image.Image], gap: int = _PAD) -> Image.Image:
    """Images from top to bottom, aligned at the left."""
    height = sum(part.height for part in parts) + gap * (len(parts) - 1)
    sheet = Image.new("RGB", (max(part.width for part in parts), height), _BACKGROUND)
    top = 0
    for part in parts:
        sheet.paste(part, (0, top))
        top += part.height + gap
    return sheet


def _text(
    text: str, size: int, width: int, *, ink: str = _FOREGROUND, paper: str = _BACKGROUND, lines: int | None = None
) -> Image.Image:
    """A text wrapped to this width, truncated to `lines` lines."""
    font, step = _font(size), round(size * _LEADING)
    wrapped = _wrap(_drawable(text), font, width, lines)
    longest = max((font.getlength(line) for line in wrapped), default=0)
    sheet = Image.new("RGB", (min(width, int(longest) + 2), step * max(1, len(wrapped))), paper)
    pen = ImageDraw.Draw(sheet)
    for number, line in enumerate(wrapped):
        pen.text((0, number * step), line, fill=ink, font=font)
    return sheet


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: int, limit: int | None) -> list[str]:
    """A text in lines of at most `width` pixels; long words are broken, and a cut text ends in an ellipsis."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        rest = word
        while font.getlength(rest) > width and len(rest) > 1:
            count = _fitting(rest, font, width)
            lines.append(rest[:count])
            rest = rest[count:]
        lines.append(rest)
        if limit and len(lines) > limit:
            break
    if limit and len(lines) > limit:
        last = lines[limit - 1]
        while last and font.getlength(f"{last}…") > width:
            last = last[:-1]
        return [*lines[: limit - 1], f"{last}…"]
    return lines


def _fitting(word: str, font: ImageFont.FreeTypeFont, width: int) -> int:
    """The number of letters of a word that fit into a line, at least one. A letter is at least one pixel wide."""
    counts = range(1, min(len(word), width) + 1)
    return max(1, bisect_right(counts, width, key=lambda count: ceil(font.getlength(word[:count]))))


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return cast("ImageFont.FreeTypeFont", ImageFont.load_default(size))  # scalable if Pillow has FreeType


def _drawable(text: str) -> str:
    """A text in the characters of the font: missing accents are dropped, other missing characters become a box."""
    text = text.encode(errors="replace").decode()
    return "".join(_substitute(character) for character in unicodedata.normalize("NFC", text))


@cache
def _substitute(character: str) -> str:
    """The character, or its replacement if the font does not have it."""
    if character.isspace():
        return " "
    if _has_glyph(character):
        return character
    parts = "".join(part for part in unicodedata.normalize("NFKD", character) if _has_glyph(part))
    if parts or unicodedata.category(character) in ("Cc", "Cf", "Mn"):  # control, format and combining characters
        return parts
    return _UNKNOWN


def _has_glyph(character: str) -> bool:
    font = _font(_TEXT)
    return bytes(font.getmask(character)) != bytes(font.getmask(_UNKNOWN))
