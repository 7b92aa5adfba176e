"""From prompts to a router's features, with torch and the standard library alone.

A pipeline is a list of parts, each of which adds columns. `router_rl.problems.prompt_features` fits one.
It is stored beside the router as a JSON description and a few tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import log1p
from typing import Any, Protocol, get_type_hints

import torch
from torch import Tensor

from .embedding import Embedding
from .group_probabilities import InferredGroup
from .router_error import RouterError
from .strict_json import check_type
from .terms import Terms

__all__ = ["GROUP_MISSING", "PARTS", "Group", "InferredGroup", "Length", "Part", "Terms", "TextFeatures"]


GROUP_MISSING = (
    "the query's group is an input of this router: call route(prompt, group), or train a router that reads "
    "the prompt alone (leave --problem.features.group out)"
)


class Part(Protocol):
    """Some columns of the features."""

    size: int

    def __call__(self, prompts: Sequence[str], groups: Sequence[str] | None) -> Tensor:
        """Columns [T, size] float32 of T prompts; groups are None where they are unknown."""
        ...

    def spec(self) -> dict[str, Any]:
        """The part without its tensors, as JSON: `{"kind": name, ...}`."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """The fitted tensors by name."""
        ...


class Length:
    """`log(1 + characters)` of a prompt, one column."""

    size = 1

    def __call__(self, prompts: Sequence[str], groups: Sequence[str] | None) -> Tensor:
        """Column [T, 1] float32."""
        return torch.tensor([log1p(len(prompt)) for prompt in prompts], dtype=torch.float32).unsqueeze(1)

    def spec(self) -> dict[str, Any]:
        """The part as JSON."""
        return {"kind": "length"}

    def tensors(self) -> dict[str, Tensor]:
        """No tensors: nothing is fitted."""
        return {}


class Group:
    """One-hot of a query's group, and each expert's mean quality on it.

    A group without training rows has the groups' shares and the last row of the values: the average query.

    Args:
        labels: G names.
        values: [G + 1, N] float32, mean quality of each expert on each group, and overall; N may be 0.
        shares: [G] float32, how often each group came in training.
        required: whether a call must give the groups. Files of version 1 lack this field; with them, a query
            without a group is an average query.

    Raises:
        RouterError: the sizes do not fit each other.
    """

    def __init__(
        self, *, labels: Sequence[str], values: Tensor, shares: Tensor, required: bool = False
    ) -> None:
        self.labels = list(labels)
        self.required = required
        self.values, self.shares = values, shares
        count = len(self.labels)
        if values.dim() != 2 or len(values) != count + 1 or shares.shape != (count,):
            raise RouterError(f"{count} groups need {count + 1} rows of values")
        self._rows = {label: row for row, label in enumerate(self.labels)}
        self.out_of_fold = values.shape[1]
        self.size = count + self.out_of_fold

    def __call__(self, prompts: Sequence[str], groups: Sequence[str] | None) -> Tensor:
        """Columns [T, G + N] float32.

        Raises:
            RouterError: the groups are required and there are none.
        """
        if groups is None and self.required:
            raise RouterError(GROUP_MISSING)
        other = len(self.labels)
        rows = [other] * len(prompts) if groups is None else [self._rows.get(name, other) for name in groups]
        row = torch.tensor(rows, dtype=torch.int64)
        # Not rows of a stored identity matrix: that takes the square of the number of groups in memory.
        onehot = (row.unsqueeze(1) == torch.arange(other)).float()
        onehot = torch.where((row == other).unsqueeze(1), self.shares, onehot)
        return torch.cat([onehot, self.values[row]], dim=1)

    def spec(self) -> dict[str, Any]:
        """The part without its tensors, as JSON."""
        return {"kind": "group", "labels": self.labels, **({"required": True} if self.required else {})}

    def tensors(self) -> dict[str, Tensor]:
        """The fitted tensors by name."""
        return {"values": self.values, "shares": self.shares}


PARTS: dict[str, Callable[..., Part]] = {
    "terms": Terms,
    "length": Length,
    "group": Group,
    "inferred_group": InferredGroup,
    "embedding": Embedding,
}

# Fields of `text.json` that version 1 wrote under other names.
_VERSION_1 = {
    "ngrams": "ngram_range",
    "sublinear": "sublinear_tf",
    "readouts": "out_of_fold",
    "longest": "max_tokens",
}


class TextFeatures:
    """The whole pipeline: T prompts, and their groups where known, to features [T, D] float32.

    Args:
        parts: at least one.
        digest: digest of its files, as `stored_text_digest` returns it; None if it was not read from files.

    Raises:
        RouterError: there are none.
    """

    def __init__(self, parts: Sequence[Part], digest: str | None = None) -> None:
        if not parts:
            raise RouterError("text features need at least one part")
        self.parts = tuple(parts)
        self.digest = digest
        self.size = sum(part.size for part in parts)

    def __call__(self, prompts: Sequence[str], groups: Sequence[str] | None = None) -> Tensor:
        """Features [T, D] float32.

        Args:
            prompts: T texts.
            groups: the task or subject of each; None for a pipeline that does not read it.

        Raises:
            RouterError: there are not as many groups as prompts, or the pipeline needs groups and there are
                none.
        """
        if groups is not None and len(groups) != len(prompts):
            raise RouterError(f"{len(prompts)} prompts have {len(groups)} groups; give one each, or none")
        return torch.cat([part(prompts, groups) for part in self.parts], dim=1)

    @property
    def inputs(self) -> tuple[str, ...]:
        """What a call must give: `prompt`, unless the pipeline reads groups alone; `group` where required."""
        grouped = any(isinstance(part, Group) and part.required for part in self.parts)
        alone = grouped and all(isinstance(part, Group) for part in self.parts)
        return (*(() if alone else ("prompt",)), *(("group",) if grouped else ()))

    @property
    def out_of_fold(self) -> tuple[tuple[int, ...], ...]:
        """Columns that predict the experts' quality, N for each part that has them."""
        columns: list[tuple[int, ...]] = []
        end = 0
        for part in self.parts:
            end += part.size
            count = part.out_of_fold if isinstance(part, Terms | Group | InferredGroup) else 0
            if count:
                columns.append(tuple(range(end - count, end)))
        return tuple(columns)

    def __deepcopy__(self, memo: dict[int, Any]) -> TextFeatures:
        return self  # it is immutable

    def spec(self) -> list[dict[str, Any]]:
        """The pipeline without its tensors, as JSON."""
        return [part.spec() for part in self.parts]

    def tensors(self) -> dict[str, Tensor]:
        """The fitted tensors: `<number of the part>.<name>` to a tensor."""
        return {
            f"{index}.{name}": value
            for index, part in enumerate(self.parts)
            for name, value in part.tensors().items()
        }

    @classmethod
    def of(
        cls, spec: Sequence[Mapping[str, Any]], tensors: Mapping[str, Tensor], digest: str | None = None
    ) -> TextFeatures:
        """Build a pipeline from its JSON form and its tensors, of this version or of version 1.

        Args:
            spec: what `TextFeatures.spec` returned.
            tensors: what `TextFeatures.tensors` returned.
            digest: digest of the files.

        Raises:
            RouterError: a part is unknown, or lacks something.
        """
        parts: list[Part] = []
        try:
            check_type(spec, list[dict[str, Any]], "")
        except ValueError as error:
            raise RouterError(str(error)) from error
        for index, entry in enumerate(spec):
            arguments = {_VERSION_1.get(name, name): value for name, value in entry.items()}
            kind = arguments.pop("kind", None)
            if not isinstance(kind, str) or kind not in PARTS:
                raise RouterError(f"text part {kind!r} is unknown; known: {', '.join(sorted(PARTS))}")
            own = {
                name.split(".", 1)[1]: value
                for name, value in tensors.items()
                if name.startswith(f"{index}.")
            }
            hints = get_type_hints(PARTS[kind].__init__)  # pyright: ignore[reportFunctionMemberAccess]
            try:
                for name, value in arguments.items():
                    check_type(value, hints.get(name, Any), f"[{index}].{name}")
                parts.append(PARTS[kind](**arguments, **own))
            except (TypeError, ValueError) as error:
                problem = f"text part {kind!r} does not take what the file says: {error}"
                raise error if isinstance(error, RouterError) else RouterError(problem) from error
            for name, value in own.items():
                if not bool(value.isfinite().all()):
                    raise RouterError(f"tensor {index}.{name} of the text holds numbers that are not finite")
        return cls(parts, digest)
