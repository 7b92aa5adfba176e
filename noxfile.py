"""Checks in other environments than the developer's own. `nox -l` lists them, `nox -s NAME` runs one.

`make check` covers one interpreter and the newest dependencies. These sessions cover the rest: other
interpreters, the lowest dependencies that pyproject.toml allows, and the wheel in an empty environment. Each
installs torch, so the first run downloads several gigabytes. Arguments after `--` go to pytest.
"""

from __future__ import annotations

from pathlib import Path

import nox

nox.needs_version = ">=2024.10.9"
nox.options.default_venv_backend = "uv"
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = True  # a session that is skipped has checked nothing
nox.options.reuse_venv = "yes"

# Of the old releases, where they meet newer ones that they require without a bound.
_LOWEST_WARNINGS = (
    "ignore:The anyio.abc.BlockingPortal alias is deprecated:DeprecationWarning",  # Starlette's test client
    "ignore:Conversion of an array with ndim > 0 to a scalar:DeprecationWarning",  # Triton's interpreter
    "ignore:The given buffer is not writable:UserWarning",  # torch.export.load
)
_LOWEST_EXTRAS = ("embedding", "export", "llm", "scale", "serve", "test", "track", "tune")


@nox.session(python=["3.11", "3.13"])
def tests(session: nox.Session) -> None:
    """Run the tests with the newest dependencies."""
    session.install("-e", ".[dev]")
    _pytest(session)


@nox.session(venv_backend="none")
def types(session: nox.Session) -> None:
    """Check the types as Python 3.10, the oldest that the package supports, reads them; in make's `.venv`."""
    session.run("make", ".venv/.installed-dev")
    session.run(".venv/bin/basedpyright", "--pythonversion", "3.10")


@nox.session(python="3.11")
def lowest(session: nox.Session) -> None:
    """Run the tests with the lowest version of every direct dependency."""
    requirements = Path(session.create_tmp()) / "lowest.txt"
    compile_lowest = [
        "uv",
        "pip",
        "compile",
        "--quiet",
        "--resolution",
        "lowest-direct",
        "--python-version",
        "3.11",
    ]
    extras = [argument for extra in _LOWEST_EXTRAS for argument in ("--extra", extra)]
    session.run(*compile_lowest, *extras, "pyproject.toml", "-o", str(requirements), external=True)
    session.install("-r", str(requirements), "build>=1.2")
    session.install("--no-deps", "-e", ".")
    # The notebooks need Jupyter, of the extra docs.
    _pytest(
        session,
        "--ignore=tests/test_notebooks.py",
        *(word for warning in _LOWEST_WARNINGS for word in ("-W", warning)),
    )


@nox.session(python=["3.10", "3.13"])
def wheel(session: nox.Session) -> None:
    """Install the wheel, with what it declares and nothing else, and use it outside the repository."""
    folder = Path(session.create_tmp()).resolve()
    session.run("uv", "build", "--quiet", "--clear", "--out-dir", str(folder / "dist"), external=True)
    (built,) = (folder / "dist").glob("*.whl")
    session.install("--reinstall-package", "router-rl", str(built))
    session.chdir(folder)
    session.run("python", "-c", "import router_rl, envs, experts; print(router_rl.__version__)")
    session.run("train-router", "--version")
    session.run("train-router", "demo", "--seeds", "1", "--n-trials", "1", "--out", str(folder / "demo"))


def _pytest(session: nox.Session, *options: str) -> None:
    session.run("python", "-m", "pytest", *options, *(session.posargs or ["-n", "2"]))
