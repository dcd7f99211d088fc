"""Rows for checks of data: problems with line drawings, and files of them; nothing is checked."""

import io
import json
import random

from PIL import Image, ImageDraw

PROBLEM = (
    "In the triangle shown, the sides have the lengths that are written beside the corners. "
    "What is the perimeter of the triangle, if one corner is moved by {} to the left?"
)


ASKED = PROBLEM.format(3)


def drawing(seed, kind="PNG", side=240, **options):
    """A triangle on white with numbers at its corners, as geometry problems have them."""
    chosen = random.Random(seed)
    image = Image.new("RGB", (240, 180), "white")
    pen = ImageDraw.Draw(image)
    corners = [(chosen.randint(15, 225), chosen.randint(15, 165)) for _ in range(3)]
    pen.polygon(corners, outline="black", width=2)
    for corner in corners:
        pen.text(corner, str(chosen.randint(10, 99)), fill="black")
    made = io.BytesIO()
    image.resize((side, side * 3 // 4), Image.Resampling.LANCZOS).save(made, kind, **options)
    return made.getvalue()


def row(problem=ASKED, **values):
    return {"problem": problem, "answer": "7", "response": "So \\boxed{7}.", "images": []} | values


def write(folder, name, rows):
    lines = []
    for number, item in enumerate(rows):
        names = []
        for place, content in enumerate(item.get("images") or ()):
            names.append(f"{name}-{number}-{place}.png")
            if content is not None:
                (folder / names[-1]).write_bytes(content)
        lines.append(json.dumps(item | {"images": names}) + "\n")
    (folder / f"{name}.jsonl").write_text("".join(lines))
