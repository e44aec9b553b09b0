"""A contact sheet: the frames of clips side by side, with their numbers and where they were cut out."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Pixels: between pictures, and the heights of a line of text and of a caption.
_GAP, _LINE, _CAPTION = 6, 20, 15
# Frames side by side.
_COLUMNS = 16
_GROUND, _TEXT, _SOFT, _BOX = (255, 255, 255), (20, 24, 28), (90, 98, 108), (230, 60, 30)


@dataclass(frozen=True)
class SheetRow:
    """One clip.

    Attributes:
        title: a line of text above it.
        original: a frame as it is in the video, uint8 [H, W, 3].
        box: (y0, x0, height, width) of the crop in that frame.
        numbers: of the clip's frames.
        pixels: the clip, uint8 [T, h, w, 3].
    """

    title: str
    original: np.ndarray
    box: tuple[float, float, float, float]
    numbers: Sequence[int]
    pixels: np.ndarray


def contact_sheet(rows: Sequence[SheetRow], side: int = 128) -> Image.Image:
    """Draw clips one under the other.

    Args:
        rows: the clips.
        side: height of a picture in pixels; 0 shows the clips' own pixels.
    """
    drawn = [_draw_row(row, side or row.pixels.shape[1]) for row in rows]
    sheet = Image.new("RGB", (max(row.width for row in drawn), sum(row.height for row in drawn)), _GROUND)
    top = 0
    for row in drawn:
        sheet.paste(row, (0, top))
        top += row.height
    return sheet


def _draw_row(row: SheetRow, side: int) -> Image.Image:
    original = _with_box(row, side)
    count, (height, width) = len(row.pixels), row.pixels.shape[1:3]
    frame_width = max(1, round(side * width / height))
    left, columns = original.width + 3 * _GAP, min(count, _COLUMNS)
    lines = -(-count // columns)
    picture = Image.new(
        "RGB",
        (left + columns * (frame_width + _GAP), _GAP + _LINE + lines * (side + _CAPTION + _GAP)),
        _GROUND,
    )
    draw = ImageDraw.Draw(picture)
    draw.text((_GAP, _GAP), row.title, _TEXT, _font(13))
    picture.paste(original, (_GAP, _GAP + _LINE))
    for place, (pixels, number) in enumerate(zip(row.pixels, row.numbers, strict=True)):
        x, y = left + place % columns * (frame_width + _GAP), _GAP + _LINE + place // columns * (side + _CAPTION + _GAP)
        frame = Image.fromarray(pixels)
        picture.paste(frame if (side, frame_width) == (height, width) else frame.resize((frame_width, side)), (x, y))
        draw.text((x, y + side), str(number), _SOFT, _font(11))
    return picture


def _with_box(row: SheetRow, side: int) -> Image.Image:
    height, width = row.original.shape[:2]
    scale = side / height
    picture = Image.fromarray(row.original).resize((max(1, round(width * scale)), side))
    y0, x0, box_height, box_width = row.box
    corners = [x0 * scale, y0 * scale, (x0 + box_width) * scale - 1, (y0 + box_height) * scale - 1]
    ImageDraw.Draw(picture).rectangle(corners, outline=_BOX, width=2)
    return picture


def _font(size: int):
    # The font that matplotlib brings knows the letters of most languages.
    from matplotlib.font_manager import findfont

    return ImageFont.truetype(findfont("DejaVu Sans"), size)
