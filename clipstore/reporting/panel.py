"""What `clipstore retrieve` found, as a picture: a row a query, a column a model; drawn by Pillow alone.

Everything is made of small pictures, put beside and below one another.
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

from clipstore.records import Row

Pictures = Mapping[str, Image.Image]

PICTURE = 400  # pixels of the longer side of a thumbnail, at least as large as any that is drawn

_QUERIES, _HITS = 20, 10  # more than these would be no picture to look at
_MARGIN, _GAP, _PAD = 32, 16, 8
_ASKED, _COLUMN, _BETWEEN = 280, 600, 32  # widths of columns, and of the gap between two
_BESIDE, _ALONE = 64, 178  # the square of a hit's photo, beside its caption and alone
_ACROSS = 3  # photos alone in a line
_PAPER, _INK, _PALE, _LINE, _EMPTY = "#ffffff", "#1f2328", "#59636e", "#d1d9e0", "#eaeef2"
_RIGHT = "#116329"
_TEXT, _NOTE, _HEADING = 17, 14, 22  # sizes of letters, in pixels
_LEADING = 1.35
_QUERY_LINES, _CAPTION_LINES, _NAME_LINES = 8, 4, 3
_UNKNOWN = "\uffff"  # what no font has


def shown(told: Row) -> list[Row]:
    """The queries, and the hits of each model, that a panel shows: as many as one can look at."""
    return [
        {**query, "answers": [{**one, "hits": one["hits"][:_HITS]} for one in query["answers"]]}
        for query in told["queries"][:_QUERIES]
    ]


def write_panel(file: Path, told: Row, pictures: Pictures, notes: Sequence[str]) -> None:
    """Draw what was retrieved into a PNG file; `notes` stand below it.

    Raises:
        OSError: the file cannot be written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    draw_panel(told, pictures, notes).save(file, format="PNG")


def draw_panel(told: Row, pictures: Pictures, notes: Sequence[str]) -> Image.Image:
    """What was retrieved, as `clipstore retrieve --json` has it, in RGB.

    `pictures` are thumbnails by query and by the path of a hit's photo; a photo's name stands where there is none. An
    answer that is known to be right has a frame, a check mark and the word.
    """
    models = [one["model"] for one in told["models"]]
    width = _ASKED + len(models) * (_BETWEEN + _COLUMN)
    asked, *found = [_words(title, _HEADING, _ASKED, lines=2) for title in (f"asked of {told['split']}", *models)]
    parts = [_columns(asked, found)]
    for query in shown(told):
        parts += [_rule(width), _query(query, models, pictures)]
    parts += [_rule(width), _down([_words(note, _NOTE, width, ink=_PALE) for note in [*_said(told), *notes]])]
    body = _down(parts, gap=_GAP)
    sheet = Image.new("RGB", (body.width + 2 * _MARGIN, body.height + 2 * _MARGIN), _PAPER)
    sheet.paste(body, (_MARGIN, _MARGIN))
    return sheet


def _said(told: Row) -> list[str]:
    """What a panel says of its marks, and of what it does not show."""
    lines = ["framed and marked as right: a caption of the very photo, or an image that the sentence is a caption of"]
    if len(told["queries"]) > _QUERIES:
        lines.append(f"the first {_QUERIES} of {len(told['queries']):,} queries")
    if told["top"] > _HITS:
        lines.append(f"the first {_HITS} of {told['top']:,} hits")
    return lines + [f"not asked: {one['query']}: {one['reason']}" for one in told["failures"][:_HITS]]


def _query(query: Row, models: Sequence[str], pictures: Pictures) -> Image.Image:
    """A row: what was asked with, and what each model found."""
    if query["kind"] == "image":
        name = PurePath(query["query"]).name or query["query"]
        known = "in the split" if query["in_split"] else "not in the split"
        asked = [_photo(query["query"], _ASKED, pictures), _words(name, _NOTE, _ASKED, ink=_PALE, lines=_NAME_LINES)]
    else:
        known = "a caption of the split" if query["in_split"] else "no caption of the split"
        asked = [_words(query["query"], _HEADING, _ASKED, lines=_QUERY_LINES)]
    asked.append(_words(known, _NOTE, _ASKED, ink=_PALE))
    found = {answer["model"]: answer["hits"] for answer in query["answers"]}
    none = _words("not asked", _NOTE, _COLUMN, ink=_PALE)
    cells = [_hits(query["kind"], found[model], pictures) if model in found else none for model in models]
    return _columns(_down(asked), cells)


def _hits(kind: str, hits: Sequence[Row], pictures: Pictures) -> Image.Image:
    if kind == "image":
        return _down([_caption(hit, pictures) for hit in hits])
    tiles = [_image(hit, pictures) for hit in hits]
    return _down([_across(tiles[at : at + _ACROSS], _PAD) for at in range(0, len(tiles), _ACROSS)])


def _caption(hit: Row, pictures: Pictures) -> Image.Image:
    """A hit that is a caption, beside the photo that it is of."""
    room = _COLUMN - 2 * _PAD - _BESIDE - _GAP
    words = [_score(hit), _words(hit["caption"], _TEXT, room, lines=_CAPTION_LINES)]
    photo = _square(_photo(hit["photo"], _BESIDE, pictures), _BESIDE)
    return _framed(_across([photo, _down(words, gap=2)]), _COLUMN, right=hit["right"])


def _image(hit: Row, pictures: Pictures) -> Image.Image:
    """A hit that is an image."""
    photo = _square(_photo(hit["photo"], _ALONE, pictures), _ALONE)
    return _framed(_down([photo, _score(hit)]), _ALONE + 2 * _PAD, right=hit["right"])


def _score(hit: Row) -> Image.Image:
    """A hit's place and score, and whether it is known to be right."""
    words = _words(f"{hit['position']}.  {hit['score']:.4f}", _NOTE, _ALONE, ink=_PALE)
    return _across([words, _mark()], gap=_PAD) if hit["right"] else words


@cache
def _mark() -> Image.Image:
    """A check mark and the word "right", white on green."""
    word = _words("right", _NOTE, _ALONE, ink=_PAPER, paper=_RIGHT)
    mark = Image.new("RGB", (word.width + 30, word.height + 2), _PAPER)
    pen = ImageDraw.Draw(mark)
    pen.rounded_rectangle((0, 0, mark.width - 1, mark.height - 1), radius=5, fill=_RIGHT)
    middle = mark.height // 2
    pen.line([(7, middle), (11, middle + 4), (18, middle - 5)], fill=_PAPER, width=2, joint="curve")
    mark.paste(word, (23, 1))
    return mark


def _framed(part: Image.Image, width: int, *, right: bool | None) -> Image.Image:
    """A hit with room around it, and in that a frame where it is right."""
    framed = Image.new("RGB", (width, part.height + 2 * _PAD), _PAPER)
    framed.paste(part, (_PAD, _PAD))
    if right:
        edge = (0, 0, framed.width - 1, framed.height - 1)
        ImageDraw.Draw(framed).rounded_rectangle(edge, radius=8, outline=_RIGHT, width=3)
    return framed


def _photo(name: str, side: int, pictures: Pictures) -> Image.Image:
    """A photo as large as fits into a square of this side; where there is none, its name."""
    if name in pictures:
        return ImageOps.contain(pictures[name].convert("RGB"), (side, side))
    empty = Image.new("RGB", (side, side), _EMPTY)
    inside = side - 2 * (_PAD // 2)
    words = _words(f"no photo: {PurePath(name).name}", _NOTE if side > _BESIDE else 10, inside, paper=_EMPTY)
    empty.paste(words.crop((0, 0, words.width, min(words.height, inside))), (_PAD // 2, _PAD // 2))
    return empty


def _square(photo: Image.Image, side: int) -> Image.Image:
    """A photo in the middle of a square."""
    square = Image.new("RGB", (side, side), _EMPTY)
    square.paste(photo, ((side - photo.width) // 2, (side - photo.height) // 2))
    return square


def _rule(width: int) -> Image.Image:
    return Image.new("RGB", (width, 1), _LINE)


def _columns(asked: Image.Image, found: Sequence[Image.Image]) -> Image.Image:
    """What was asked, and what each model found, each as wide as its column."""
    return _across([_wide(asked, _ASKED), *(_wide(part, _COLUMN) for part in found)], _BETWEEN)


def _wide(part: Image.Image, width: int) -> Image.Image:
    """A picture with room to its right."""
    wide = Image.new("RGB", (width, part.height), _PAPER)
    wide.paste(part)
    return wide


def _across(parts: Sequence[Image.Image], gap: int = _GAP) -> Image.Image:
    """Pictures beside one another, their tops in a line."""
    width = sum(part.width for part in parts) + gap * (len(parts) - 1)
    sheet = Image.new("RGB", (width, max(part.height for part in parts)), _PAPER)
    left = 0
    for part in parts:
        sheet.paste(part, (left, 0))
        left += part.width + gap
    return sheet


def _down(parts: Sequence[Image.Image], gap: int = _PAD) -> Image.Image:
    """Pictures below one another, their left sides in a line."""
    height = sum(part.height for part in parts) + gap * (len(parts) - 1)
    sheet = Image.new("RGB", (max(part.width for part in parts), height), _PAPER)
    top = 0
    for part in parts:
        sheet.paste(part, (0, top))
        top += part.height + gap
    return sheet


def _words(
    text: str, size: int, width: int, *, ink: str = _INK, paper: str = _PAPER, lines: int | None = None
) -> Image.Image:
    """Words in lines of at most this width; past so many `lines` they are cut."""
    font, step = _font(size), round(size * _LEADING)
    told = _lines(_drawable(text), font, width, lines)
    longest = max((font.getlength(line) for line in told), default=0)
    sheet = Image.new("RGB", (min(width, int(longest) + 2), step * max(1, len(told))), paper)
    pen = ImageDraw.Draw(sheet)
    for number, line in enumerate(told):
        pen.text((0, number * step), line, fill=ink, font=font)
    return sheet


def _lines(text: str, font: ImageFont.FreeTypeFont, width: int, most: int | None) -> list[str]:
    """Words broken into lines that fit, words longer than a line too; the last of `most` ends in an ellipsis."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        rest = word
        while font.getlength(rest) > width and len(rest) > 1:
            fits = _fitting(rest, font, width)
            lines.append(rest[:fits])
            rest = rest[fits:]
        lines.append(rest)
        if most and len(lines) > most:
            break
    if most and len(lines) > most:
        last = lines[most - 1]
        while last and font.getlength(f"{last}…") > width:
            last = last[:-1]
        return [*lines[: most - 1], f"{last}…"]
    return lines


def _fitting(word: str, font: ImageFont.FreeTypeFont, width: int) -> int:
    """How many letters of a word fit into a line, at least one. None is narrower than a pixel."""
    counts = range(1, min(len(word), width) + 1)
    return max(1, bisect_right(counts, width, key=lambda count: ceil(font.getlength(word[:count]))))


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return cast("ImageFont.FreeTypeFont", ImageFont.load_default(size))  # scalable wherever Pillow has FreeType


def _drawable(text: str) -> str:
    """A text in the letters that the font has: without accents it lacks, a box for what else it lacks."""
    text = text.encode(errors="replace").decode()
    return "".join(_letter(one) for one in unicodedata.normalize("NFC", text))


@cache
def _letter(one: str) -> str:
    if one.isspace():
        return " "
    if _has(one):
        return one
    bare = "".join(part for part in unicodedata.normalize("NFKD", one) if _has(part))
    if bare or unicodedata.category(one) in ("Cc", "Cf", "Mn"):  # the latter are no letters of their own
        return bare
    return _UNKNOWN


def _has(one: str) -> bool:
    font = _font(_TEXT)
    return bytes(font.getmask(one)) != bytes(font.getmask(_UNKNOWN))
