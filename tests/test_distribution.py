"""The source distribution and the wheel: what is in them, and the wheel at work outside the repository."""

from __future__ import annotations

import email
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("router_rl", "envs", "experts")


class Built(NamedTuple):
    """What is built, the source distribution, and the wheel that is built from that."""

    source: Path
    sdist: Path
    wheel: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Both distributions, of a copy: setuptools also packs what an older `*.egg-info` lists."""
    folder = tmp_path_factory.mktemp("dist")
    beside = shutil.ignore_patterns(".*", "*.egg-info", "__pycache__", "build", "dist", "demo", "runs")
    source = Path(shutil.copytree(ROOT, folder / "source", ignore=beside))
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return Built(source, sdist, wheel)


@pytest.mark.slow
def test_the_source_distribution_has_documents_examples_and_tests(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for folder in ("docs", "examples", "benchmarks"):
        files = (
            path.relative_to(built.source)
            for path in (built.source / folder).rglob("*.*")
            if "__pycache__" not in path.parts
        )
        assert {file.as_posix() for file in files} <= names
    assert {
        "README.md",
        "LICENSE",
        "NOTICE",
        "CHANGELOG.md",
        "Makefile",
        "noxfile.py",
        "tests/test_distribution.py",
    } <= names
    assert not [name for name in names if name.endswith(".pyc") or name.startswith((".venv", "runs"))]


def test_the_wheel_has_every_file_of_the_packages_and_no_other(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = {
        path.relative_to(built.source).as_posix()
        for package in PACKAGES
        for path in (built.source / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert names == expected | {"train_router.py"}


def test_the_licence_of_the_packaged_table_is_in_the_wheel(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as archive:
        names = archive.namelist()
        (notice,) = (name for name in names if name.endswith("/licenses/NOTICE"))
        text = archive.read(notice).decode()
    for file in re.findall(r"experts/sources/tables/[\w.]*\w", text):
        assert file in names
    assert {Path(name).name for name in names if "/licenses/" in name} == {
        "LICENSE",
        "NOTICE",
        "routellm_gsm8k.LICENSE.txt",
    }


def test_the_description_has_no_link_that_pypi_cannot_follow(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata["License-Expression"] == "Apache-2.0"
    citation = yaml.safe_load((built.source / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["version"], citation["license"]) == (metadata["Version"], "Apache-2.0")
    description = metadata.get_payload()
    assert isinstance(description, str)
    assert description.startswith("# router-rl")
    assert "docs/" in description
    assert not re.findall(r"\]\((?!https?://|#)[^)]*\)", description)


@pytest.mark.slow
def test_the_wheel_works_in_a_clean_environment(built: Built, tmp_path: Path) -> None:
    """Its dependencies are this environment's; `nox -s wheel` installs what the wheel declares."""
    venv.create(tmp_path / "clean", with_pip=False)
    binaries = tmp_path / "clean" / ("Scripts" if sys.platform == "win32" else "bin")
    python = str(binaries / "python")
    install = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
    ]
    subprocess.run([*install, str(built.wheel)], check=True, capture_output=True)
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    clean, ours = (_output(interpreter, "-c", ask) for interpreter in (python, sys.executable))
    # A path in a .pth file comes last and brings no editable install with it.
    Path(clean, "dependencies.pth").write_text(f"{ours}\n", encoding="utf-8")

    code = (
        "import sys, router_rl; assert router_rl.__version__; "
        "print([m for m in ('torch', 'numpy', 'gymnasium', 'pyarrow') if m in sys.modules]); "
        "import envs, experts; print(*(m.__file__ for m in (router_rl, envs, experts)), sep='\\n')"
    )
    heavy, *files = _output(python, "-c", code, folder=tmp_path).splitlines()
    assert heavy == "[]"
    assert len(files) == 3
    assert all(Path(file).is_relative_to(clean) for file in files)
    code = "import experts; print(len(experts.open_table('routellm_gsm8k', progress=False)))"
    assert _output(python, "-c", code, folder=tmp_path) == "1319"
    version = _output(str(binaries / "train-router"), "--version", folder=tmp_path)
    assert re.search(r"\d+\.\d+\.\d+", version)


def _output(*command: str, folder: Path | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()
