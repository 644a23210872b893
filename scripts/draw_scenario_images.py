"""Draws the invoice and the chart of the scenario for the 90B model: python scripts/draw_scenario_images.py

Drawn here, so that no model knows them by heart, and in the size of four tiles. The photo beside them is not drawn.
"""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

FOLDER = Path(__file__).resolve().parents[1] / "mllama_demo" / "present" / "scenarios" / "images"
INK, QUIET, LINE, ACCENT = "#1c1917", "#57534e", "#a8a29e", "#0f766e"


class Sheet:
    """A white page to write on. Sizes and places in pixels."""

    def __init__(self, width: int, height: int) -> None:
        self.image = Image.new("RGB", (width, height), "white")
        self.pen = ImageDraw.Draw(self.image)

    def text(self, x: int, y: int, words: str, size: int = 32, color: str = INK, anchor: str = "ls", bold: bool = False) -> None:
        """anchor: as ImageDraw's; l, m and r are left, middle and right, s is the baseline."""
        font = ImageFont.load_default(size)
        self.pen.text((x, y), words, color, font, anchor, stroke_width=1 if bold else 0, stroke_fill=color)

    def rule(self, y: int, left: int, right: int, width: int = 2, color: str = LINE) -> None:
        self.pen.line((left, y, right, y), color, width)

    def save(self, name: str) -> None:
        FOLDER.mkdir(exist_ok=True)
        self.image.save(FOLDER / name, optimize=True)


def invoice() -> None:
    sheet = Sheet(1120, 1120)
    left, right = 90, 1030
    sheet.pen.rectangle((0, 0, 1120, 16), ACCENT)
    sheet.text(left, 110, "Brandt & Daughters", 44, ACCENT, bold=True)
    sheet.text(left, 155, "Furniture · 12 Quay Street", 28, QUIET)
    sheet.text(right, 110, "INVOICE", 52, anchor="rs", bold=True)
    sheet.text(right, 155, "No. 2041", 32, anchor="rs")
    sheet.rule(200, left, right)
    for y, label, value in ((265, "Customer", "Harbour Library"), (315, "Date", "3 March 2025"), (365, "Due", "2 April 2025")):
        sheet.text(left, y, label, 30, QUIET)
        sheet.text(left + 200, y, value, 34)
    columns = ((left, "ls"), (720, "rs"), (right, "rs"))
    for (x, anchor), name in zip(columns, ("Item", "Quantity", "Price each"), strict=True):
        sheet.text(x, 480, name, 28, QUIET, anchor)
    sheet.rule(500, left, right)
    rows = (("Reading lamp", "2", "45.00"), ("Oak desk", "1", "180.00"), ("Chair", "4", "60.00"))
    for y, row in zip(range(565, 800, 80), rows, strict=False):
        for (x, anchor), cell in zip(columns, row, strict=True):
            sheet.text(x, y, cell, 36, anchor=anchor)
        sheet.rule(y + 28, left, right, 1)
    sheet.text(720, 870, "Total", 44, anchor="rs", bold=True)
    sheet.text(right, 870, "510.00 EUR", 44, anchor="rs", bold=True)
    sheet.rule(895, 500, right, 4, INK)
    sheet.text(left, 1040, "Please pay within 30 days. Thank you for your order.", 28, QUIET)
    sheet.save("invoice.png")


def chart() -> None:
    sheet = Sheet(1120, 1120)
    left, right, ground, scale = 150, 1060, 930, 11
    sheet.text(70, 110, "Energy by quarter", 52, bold=True)
    sheet.text(70, 160, "Gigawatt hours (GWh)", 32, QUIET)
    for value in range(0, 61, 10):
        y = ground - value * scale
        sheet.rule(y, left, right, 1 if value else 3, LINE if value else INK)
        sheet.text(left - 20, y + 10, str(value), 28, QUIET, "rs")
    bars = (("Q1", 42, 12), ("Q2", 31, 35), ("Q3", 27, 41), ("Q4", 53, 9))
    for index, (name, *values) in enumerate(bars):
        x = left + 45 + index * 225
        for place, (value, color) in enumerate(zip(values, (ACCENT, "#d97706"), strict=True)):
            bar = x + place * 80
            sheet.pen.rectangle((bar, ground - value * scale, bar + 72, ground - 2), color)
            top = ground - value * scale
            sheet.pen.rectangle((bar + 14, top - 38, bar + 58, top - 2), "white")  # no line of the grid through the number
            sheet.text(bar + 36, top - 12, str(value), 30, anchor="ms")
        sheet.text(x + 76, ground + 48, name, 36, anchor="ms")
    for x, name, color in ((left + 45, "Wind", ACCENT), (left + 245, "Solar", "#d97706")):
        sheet.pen.rectangle((x, 1030, x + 32, 1062), color)
        sheet.text(x + 48, 1057, name, 34)
    sheet.save("chart.png")


if __name__ == "__main__":
    invoice()
    chart()
