"""Fetches a headless Chromium with its libraries from the npm registry, and leaves FOLDER/chromium to be called."""

from __future__ import annotations

import hashlib
import io
import sys
import tarfile
import urllib.request
from pathlib import Path
from xml.sax.saxutils import escape

import brotli  # type: ignore[import-not-found]

VERSION = "153.0.0"
URL = f"https://registry.npmjs.org/@sparticuz/chromium/-/chromium-{VERSION}.tgz"
SHA256 = "20e5656fcdcf4118ede85edfb9d6bb9cc1bbb7ffb8b75622fffbcf36a835c3c0"

FONTS = """<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir>{0}/fonts</dir><cachedir>{0}/fonts-cache</cachedir></fontconfig>
"""
CALL = """#!/bin/sh
here=$(dirname "$0")/browser
export LD_LIBRARY_PATH="$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" FONTCONFIG_PATH="$here"
exec "$here/chromium" "$@"
"""


def unpack(package: bytes, folder: Path) -> None:
    """Lay out what is in the package.

    Args:
        package: the npm package, as it is fetched.
        folder: gets `chromium`, a script, and `browser/`, what it starts.

    Raises:
        SystemExit: it is not the package that is pinned.
    """
    found = hashlib.sha256(package).hexdigest()
    if found != SHA256:
        raise SystemExit(f"{URL}: its SHA-256 is {found}, not {SHA256}")
    browser = folder / "browser"
    browser.mkdir(exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(package)) as files:
        for name in ("al2023.tar.br", "fonts.tar.br", "swiftshader.tar.br"):
            with tarfile.open(fileobj=io.BytesIO(_content(files, name))) as inner:
                inner.extractall(browser, filter="data")
        (browser / "chromium").write_bytes(_content(files, "chromium.br"))
    (browser / "chromium").chmod(0o755)
    (browser / "fonts.conf").write_text(FONTS.format(escape(str(browser.resolve()))), encoding="utf-8")
    script = folder / "chromium"
    script.write_text(CALL, encoding="utf-8")
    script.chmod(0o755)


def _content(files: tarfile.TarFile, name: str) -> bytes:
    """A file of the package, decompressed."""
    member = files.extractfile(f"package/bin/{name}")
    assert member is not None
    content: bytes = brotli.decompress(member.read())
    return content


if __name__ == "__main__":
    with urllib.request.urlopen(URL, timeout=300) as answer:
        unpack(answer.read(), Path(sys.argv[1]))
