"""Endless random batches of labelled pictures. On a GPU, worker processes draw them while the model computes."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from mllama_demo.images.tiles import TileLayout, tile_layout
from training.drawings import load_bank
from training.labels import patch_labels
from training.model import ASPECT_RATIOS, MAX_TILES, PATCH, TILE
from training.render import disturb, render
from training.sampling import sample_scene

TINTED = 0.3  # share of drawings whose colours are changed, because an object's colour does not decide what it is


@dataclass
class Pictures:
    """Pictures as the model reads them.

    Attributes:
        tiles: uint8 [batch, tiles, 3, 84, 84].
        ratio: Aspect ratio ids, int64 [batch].
        filled: Which tiles hold a part of the picture, bool [batch, tiles].
        labels: Patch labels (labels.py), int16 [batch, heads, tiles, patches].
    """

    tiles: Tensor
    ratio: Tensor
    filled: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.tiles)

    def to(self, device: torch.device) -> Pictures:
        return Pictures(*(getattr(self, field.name).to(device) for field in fields(self)))


def cut_tiles(pixels: np.ndarray, layout: TileLayout) -> np.ndarray:
    """Cuts a resized picture into tiles as the image processor does. Pixels and tiles without picture are zero.

    Args:
        pixels: uint8 [layout.height, layout.width, 3].

    Returns:
        uint8 [MAX_TILES, 3, 84, 84].
    """
    canvas = np.zeros((layout.rows * TILE, layout.columns * TILE, 3), np.uint8)
    canvas[: layout.height, : layout.width] = pixels
    tiles = np.zeros((MAX_TILES, 3, TILE, TILE), np.uint8)
    cut = canvas.reshape(layout.rows, TILE, layout.columns, TILE, 3).transpose(0, 2, 4, 1, 3)
    tiles[: layout.tiles] = cut.reshape(-1, 3, TILE, TILE)
    return tiles


class PictureStream(IterableDataset[Pictures]):
    """Endless batches of labelled pictures without conversations.

    Args:
        batch: Pictures per batch.
        seed: Seed of the random stream; each worker process adds its number.
        wants: Shares of pictures by what they are about (sampling.sample_scene). The rest are like in conversations.
    """

    def __init__(self, batch: int, seed: str, wants: Mapping[str, float] | None = None) -> None:
        self.batch, self.seed = batch, seed
        given = dict(wants or {})
        self._wants, self._shares = (*given, ""), (*given.values(), 1 - sum(given.values()))

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        rng = random.Random(f"{self.seed}/{worker.id if worker else 0}")
        bank = load_bank()
        while True:
            yield self.draw(rng, bank)

    def draw(self, rng: random.Random, bank: Any) -> Any:
        """Draws one batch."""
        rows = []
        for _ in range(self.batch):
            scene = sample_scene(rng, want=rng.choices(self._wants, self._shares)[0])
            layout = tile_layout(scene.width, scene.height, TILE, MAX_TILES)
            image = disturb(render(scene, bank, (layout.width, layout.height), tinted=TINTED), rng)
            rows.append((scene, image, layout))
        return self.pack(rows, bank)

    @staticmethod
    def pack(rows: list[Any], bank: Any) -> Pictures:
        """Turns rows of (scene, resized image, tile layout) into tensors."""
        layouts = [layout for _, _, layout in rows]
        return Pictures(
            torch.from_numpy(np.stack([cut_tiles(np.asarray(image), layout) for _, image, layout in rows])),
            torch.tensor([ASPECT_RATIOS.index([layout.rows, layout.columns]) + 1 for layout in layouts]),
            torch.arange(MAX_TILES)[None] < torch.tensor([[layout.tiles] for layout in layouts]),
            torch.from_numpy(np.stack([patch_labels(scene, layout, TILE, PATCH, MAX_TILES, bank) for scene, _, layout in rows])),
        )


def stream(dataset: IterableDataset[Any], workers: int) -> Iterator[Any]:
    """Iterates over the dataset. Worker processes prepare batches in advance. Without workers, each batch is made on demand."""
    return iter(DataLoader(dataset, batch_size=None, num_workers=workers, prefetch_factor=4)) if workers else iter(dataset)
