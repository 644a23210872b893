"""Draws the pictures of the scenario for the 90B model: python scripts/draw_scenario_images.py"""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

FOLDER = Path(__file__).resolve().parents[1] / "configs" / "scenarios" / "images"


def draw(name: str, lines: list[tuple[int, int, str, int]], bars: list[tuple[str, int]] = []) -> None:  # noqa: B006
    image = Image.new("RGB", (1120, 840), "white")
    pen = ImageDraw.Draw(image)
    for x, y, text, size in lines:
        pen.text((x, y), text, "black", ImageFont.load_default(size))
    for index, (label, value) in enumerate(bars):
        left = 140 + index * 240
        pen.rectangle((left, 720 - value * 10, left + 140, 720), "#c2410c")
        pen.text((left + 40, 735), label, "black", ImageFont.load_default(32))
        pen.text((left + 45, 675 - value * 10), str(value), "black", ImageFont.load_default(32))
    FOLDER.mkdir(exist_ok=True)
    image.save(FOLDER / name, optimize=True)


draw("chart.png", [(140, 40, "Energy from wind, GWh", 48)], [("Q1", 42), ("Q2", 31), ("Q3", 27), ("Q4", 53)])
rows = [("Item", "Amount", "Price"), ("Lamp", "2", "45.00"), ("Desk", "1", "180.00"), ("Chair", "4", "60.00")]
table = [(100 + 330 * c, 300 + 80 * r, cell, 36) for r, row in enumerate(rows) for c, cell in enumerate(row)]
head = [(100, 60, "INVOICE 2041", 64), (100, 160, "Date: 3 March 2025", 36), (100, 210, "Customer: Harbour Library", 36)]
draw("invoice.png", [*head, *table, (100, 680, "Total   510.00 EUR", 48)])
