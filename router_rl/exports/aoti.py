"""A router as an AOTInductor package: compiled for this machine's CPU, loaded from C++ or Python.

`router.pt2` has two models: `model` takes features [T, D] (and state [T, S] if the router has state),
`masked` also takes alive [N] bool. `program` documents their outputs. `route.cpp` loads it from C++.
https://docs.pytorch.org/docs/stable/torch.compiler_aot_inductor.html
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.export import ExportedProgram

from experts import InputError
from experts.io.atomic import write_json

from ..routing import Router, Routing
from .format import Format
from .program import export_program, input_names, unmasked_or_masked

__all__ = ["FORMAT", "compile_package", "load", "usage", "write"]

_MODELS = ("model", "masked")  # the first is what the loaders take by default


def write(router: Router, folder: Path) -> None:
    """Compile both programs into one package, and write the router's description.

    Args:
        router: any deterministic router.
        folder: the output folder; created if it does not exist.

    Raises:
        InputError: there is no C++ compiler.
        RouterError: the router is stochastic.
    """
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        problem = "compiles C++, and neither g++ nor clang++ is installed"
        raise InputError("format", "aoti", problem, "install one, or use pt2, which compiles nothing")
    folder.mkdir(parents=True, exist_ok=True)
    programs = {name: export_program(router, masked=name == "masked") for name in _MODELS}
    compile_package(programs, folder / "router.pt2")
    shutil.copyfile(Path(__file__).with_name("route.cpp"), folder / "route.cpp")
    built = {"torch": torch.__version__, "cpu": torch.backends.cpu.get_cpu_capability()}
    described = {"schema_version": 1, "format": "aoti", "built_for": built, **router.spec()}
    write_json(folder / "router.json", described | {"inputs": input_names(router, masked=False)})


def compile_package(programs: Mapping[str, ExportedProgram], path: Path) -> None:
    """Compile programs for this machine's CPU into one package.

    Args:
        programs: programs by the name of their model in the package.
        path: path of the package, a `.pt2` file.
    """
    with _quiet():
        from torch._inductor import aot_compile
        from torch._inductor.package.package import package_aoti

        options = {"aot_inductor.package": True}
        files: dict[str, Any] = {
            name: aot_compile(program.module(), cast(Any, program.example_inputs)[0], options=options)
            for name, program in programs.items()
        }
        package_aoti(str(path), files)


def load(folder: Path) -> Callable[..., Routing]:
    """Load the package as one function of features (and state, and a mask) that returns a `Routing`."""
    with _quiet():
        from torch._inductor.package.package import load_package

        models = [load_package(str(folder / "router.pt2"), name) for name in _MODELS]
        return unmasked_or_masked(*(_unwrapped(cast(Any, model).loader.run) for model in models))


def usage(router: Router) -> str:
    """Return Python that loads and calls the export."""
    inputs = ", ".join(input_names(router, masked=False))
    return f"""import torch  # for C++, see route.cpp
program = torch._inductor.aoti_load_package("router.pt2")
experts, weights, logits, fallback = program({inputs})
# program.loader.run([{inputs}]) does the same and saves ten microseconds of torch's Python wrapper.
# The model "masked" of the package takes alive [{len(router.experts)}] bool last."""


def _unwrapped(run: Callable[[list[Tensor]], list[Tensor]]) -> Callable[..., list[Tensor]]:
    """The compiled function without torch's Python wrapper, which takes longer than a small router."""
    return lambda *inputs: run(list(inputs))


@contextmanager
def _quiet() -> Generator[None, None, None]:
    """Suppress torch's warnings about its own internals."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


FORMAT = Format(write=write, load=load, usage=usage)
