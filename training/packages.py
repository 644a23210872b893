"""Fetches the packages with the drawings, fonts and photographs of the training pictures, through npm and pip, into a cache.

The versions are fixed. The model card lists the licences given here.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

CACHE = Path(__file__).resolve().parent.parent / "data" / "training"


@dataclass(frozen=True)
class Package:
    """A package.

    Attributes:
        source: "npm" or "pip".
        use: "training" or "evaluation only".
        one_colour: Whether its drawings have one colour only.
    """

    name: str
    version: str
    source: str
    licence: str
    author: str
    use: str = "training"
    one_colour: bool = False

    @property
    def archive(self) -> str:
        """The pattern of the archive's file name."""
        if self.source == "npm":
            return f"*-{self.name}-{self.version}.tgz"  # the scope comes first
        return f"{self.name.replace('-', '_')}-{self.version}-*.whl"


EMOJI = (
    Package("twemoji", "1.2.5", "npm", "CC-BY-4.0", "Twitter and contributors"),
    Package("noto", "1.2.9", "npm", "Apache-2.0", "Google"),
    Package("noto-v1", "1.2.5", "npm", "Apache-2.0", "Google"),
    Package("fluent-emoji-flat", "1.2.6", "npm", "MIT", "Microsoft"),
    Package("emojione", "1.2.3", "npm", "CC-BY-4.0", "EmojiOne"),
    Package("fxemoji", "1.2.2", "npm", "Apache-2.0", "Mozilla"),
    Package("streamline-emojis", "1.2.4", "npm", "CC-BY-4.0", "Streamline"),
    Package("fluent-emoji", "1.2.7", "npm", "MIT", "Microsoft"),
    Package("flag", "1.2.12", "npm", "MIT", "Panayiotis Lipiridis"),
    Package("emojione-monotone", "1.2.1", "npm", "CC-BY-4.0", "EmojiOne", one_colour=True),
    Package("fluent-emoji-high-contrast", "1.2.6", "npm", "MIT", "Microsoft", one_colour=True),
    Package("openmoji", "1.2.29", "npm", "CC-BY-SA-4.0", "OpenMoji", use="evaluation only"),
)
FONTS = (
    Package("roboto", "0.4.3", "npm", "OFL-1.1", "The Roboto Project Authors"),
    Package("open-sans", "0.4.2", "npm", "OFL-1.1", "The Open Sans Project Authors"),
    Package("lato", "0.4.1", "npm", "OFL-1.1", "Łukasz Dziedzic"),
    Package("montserrat", "0.4.2", "npm", "OFL-1.1", "The Montserrat Project Authors"),
    Package("merriweather", "0.4.2", "npm", "OFL-1.1", "The Merriweather Project Authors"),
    Package("poppins", "0.4.1", "npm", "OFL-1.1", "The Poppins Project Authors"),
    Package("bitter", "0.4.2", "npm", "OFL-1.1", "The Bitter Project Authors", use="evaluation only"),
    Package("noto-sans", "0.4.2", "npm", "OFL-1.1", "The Noto Project Authors", use="evaluation only"),
)
PHOTOS = (
    Package("scikit-image", "0.26.0", "pip", "BSD-3-Clause; its photographs public domain or CC0", "scikit-image team"),
    Package("scikit-learn", "1.9.1", "pip", "CC-BY-2.0", "T. Verdier, V. Khine (photographs)", use="evaluation only"),
)
_SCOPES = {**{p.name: "@iconify-json/" for p in EMOJI}, **{p.name: "@expo-google-fonts/" for p in FONTS}}


class PackageError(Exception):
    """A package could not be fetched. The message is one sentence for the user."""


def fetch(package: Package, cache: Path = CACHE) -> Path:
    """The path of the package's archive in the cache. Fetches the archive if it is missing.

    Raises:
        PackageError: npm is missing, or npm or pip failed.
    """
    fetch_all((package,), cache)
    return next((cache / "packages").glob(package.archive))


def fetch_all(packages: Iterable[Package], cache: Path = CACHE) -> None:
    """Fetches the archives that are missing in the cache. One npm fetches all, because each start of npm takes a second.

    Raises:
        PackageError: npm is missing, or npm or pip failed.
    """
    missing = [package for package in packages if not any((cache / "packages").glob(package.archive))]
    if npm := [f"{_SCOPES[package.name]}{package.name}@{package.version}" for package in missing if package.source == "npm"]:
        if shutil.which("npm") is None:
            raise PackageError("Training needs npm, to fetch emoji drawings and fonts; install Node.js.")
        _download(["npm", "pack", "--silent", *npm], npm, cache)
    if pip := [f"{package.name}=={package.version}" for package in missing if package.source == "pip"]:
        options = ["download", "-q", "--no-deps", "--only-binary", ":all:", "-d", "."]
        _download([sys.executable, "-m", "pip", *options, *pip], pip, cache)


def _download(command: list[str], names: list[str], cache: Path) -> None:
    """Runs the command in an empty folder, and moves the archives that it leaves there into the cache."""
    scratch = cache / "packages" / f"{os.getpid()}"  # two processes may fetch at the same time
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    done = subprocess.run(command, cwd=scratch, capture_output=True, text=True)
    if done.returncode:
        raise PackageError(f"{', '.join(names)} could not be fetched: {done.stderr.strip()[-300:]}")
    for archive in scratch.iterdir():
        archive.replace(scratch.parent / archive.name)
    scratch.rmdir()


def read_icons(package: Package, cache: Path = CACHE) -> dict[str, str]:
    """All icons of an emoji set as SVG documents, by name. Aliases are names too."""
    with tarfile.open(fetch(package, cache)) as archive:
        content = archive.extractfile("package/icons.json")
        assert content is not None
        data = json.load(content)
    width, height = data.get("width", 16), data.get("height", 16)
    icons = {}
    for name, icon in data["icons"].items():
        box = f"{icon.get('left', 0)} {icon.get('top', 0)} {icon.get('width', width)} {icon.get('height', height)}"
        root = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{box}">'
        icons[name] = f"{root}{icon['body']}</svg>"
    for name, alias in data.get("aliases", {}).items():
        if alias["parent"] in icons and set(alias) == {"parent"}:
            icons.setdefault(name, icons[alias["parent"]])
    return icons


def read_fonts(package: Package, cache: Path = CACHE, weights: tuple[str, ...] = ("400Regular", "700Bold")) -> dict[str, bytes]:
    """The contents of the TrueType files with these weights, by "family weight"."""
    fonts = {}
    with tarfile.open(fetch(package, cache)) as archive:
        for member in archive.getmembers():
            parts = Path(member.name).parts
            if len(parts) == 3 and parts[1] in weights and member.name.endswith(".ttf"):
                content = archive.extractfile(member)
                assert content is not None
                fonts[f"{package.name} {parts[1]}"] = content.read()
    return fonts


def read_photos(package: Package, cache: Path = CACHE) -> dict[str, io.BytesIO]:
    """The PNG and JPEG data files in a wheel, by file name without its suffix."""
    with zipfile.ZipFile(fetch(package, cache)) as archive:
        names = [n for n in archive.namelist() if n.endswith((".png", ".jpg")) and "/data" in n]
        return {Path(name).stem: io.BytesIO(archive.read(name)) for name in names}
