"""From prompts to a router's features, with torch and the standard library alone.

A pipeline is a list of parts, each of which adds columns. `router_rl.problems.prompt_features` fits one.
It is stored beside the router as a JSON description and a few tensors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import log, log1p
from typing import Any, Protocol

import torch
from torch import Tensor

from .embedding import Embedding
from .ngrams import analyser as terms_of
from .ngrams import hashed_column
from .router_error import RouterError

__all__ = ["PARTS", "Group", "Length", "Part", "Terms", "TextFeatures"]


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


class Terms:
    """Weighted counts of n-grams, scaled to length 1 and projected: `x = (w / |w|) P + o`.

    With a vocabulary a term that occurs n times has the weight `idf n`, or `idf (1 + log n)` where counts are
    sublinear (TF-IDF, Salton & Buckley 1988, as scikit-learn's TfidfVectorizer); without one its column is
    its hash and its weight +-n (scikit-learn's HashingVectorizer).

    Args:
        analyser: `word` or `char_wb`.
        ngram_range: the smallest and the largest n.
        projection: P [V, size] float32.
        offset: o [size] float32.
        vocabulary: V terms in the order of the rows of P; None: terms are hashed into V columns.
        idf: [V] float32, where there is a vocabulary.
        sublinear_tf: whether a count n becomes 1 + log n.
        out_of_fold: how many columns at the end predict the experts' quality.

    Raises:
        RouterError: the sizes do not fit each other.
    """

    def __init__(
        self,
        *,
        analyser: str,
        ngram_range: Sequence[int],
        projection: Tensor,
        offset: Tensor,
        vocabulary: Sequence[str] | None = None,
        idf: Tensor | None = None,
        sublinear_tf: bool = False,
        out_of_fold: int = 0,
    ) -> None:
        self.out_of_fold = out_of_fold
        self.analyser = analyser
        self.ngram_range = (int(ngram_range[0]), int(ngram_range[1]))
        self.projection, self.offset, self.idf = projection, offset, idf
        self.vocabulary = None if vocabulary is None else list(vocabulary)
        self.sublinear_tf = sublinear_tf
        self.size = projection.shape[1]
        rows = len(projection)
        if (vocabulary is None) != (idf is None) or (vocabulary is not None and len(vocabulary) != rows):
            raise RouterError(
                f"a vocabulary needs {rows} terms with an idf each, one a row of the projection"
            )
        self._columns = {term: column for column, term in enumerate(self.vocabulary or ())}
        self._idf: list[float] = [] if idf is None else idf.tolist()
        self._terms = terms_of(self.analyser, *self.ngram_range)

    def __call__(self, prompts: Sequence[str], groups: Sequence[str] | None) -> Tensor:
        """Columns [T, size] float32."""
        columns: list[int] = []
        values: list[float] = []
        starts: list[int] = []
        for prompt in prompts:
            starts.append(len(columns))
            weights = self._weights(prompt)
            length = sum(weight * weight for weight in weights.values()) ** 0.5 or 1.0
            columns += weights
            values += [weight / length for weight in weights.values()]
        if not columns:
            return self.offset.expand(len(prompts), -1).clone()
        bag = torch.nn.functional.embedding_bag(
            torch.tensor(columns),
            self.projection,
            torch.tensor(starts),
            mode="sum",
            per_sample_weights=torch.tensor(values, dtype=torch.float32),
        )
        return bag + self.offset

    def _weights(self, prompt: str) -> dict[int, float]:
        """Weight of each column that the prompt's terms fall into."""
        counts = Counter(self._terms(prompt))
        if self.vocabulary is None:
            weights: dict[int, float] = {}
            rows = len(self.projection)
            for term, count in counts.items():
                column, sign = hashed_column(term, rows)
                weights[column] = weights.get(column, 0.0) + sign * count
            return weights
        columns, idf = self._columns, self._idf
        known = [(columns[term], count) for term, count in counts.items() if term in columns]
        if self.sublinear_tf:
            return {column: idf[column] * (1.0 + log(count)) for column, count in known}
        return {column: idf[column] * count for column, count in known}

    def spec(self) -> dict[str, Any]:
        """The part without its tensors, as JSON."""
        return {
            "kind": "terms",
            "analyser": self.analyser,
            "ngram_range": list(self.ngram_range),
            "sublinear_tf": self.sublinear_tf,
            "out_of_fold": self.out_of_fold,
            "vocabulary": self.vocabulary,
        }

    def tensors(self) -> dict[str, Tensor]:
        """The fitted tensors by name."""
        idf = {} if self.idf is None else {"idf": self.idf}
        return {"projection": self.projection, "offset": self.offset, **idf}


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
        """Nothing."""
        return {}


class Group:
    """One-hot of a query's group, and each expert's mean quality on it.

    An unknown group has the groups' shares and the last row of the values: the average query.

    Args:
        labels: G names.
        values: [G + 1, N] float32, mean quality of each expert on each group, and overall; N may be 0.
        shares: [G] float32, how often each group came in training.
    """

    def __init__(self, *, labels: Sequence[str], values: Tensor, shares: Tensor) -> None:
        self.labels = list(labels)
        self.values, self.shares = values, shares
        if len(values) != len(self.labels) + 1 or len(shares) != len(self.labels):
            raise RouterError(f"{len(self.labels)} groups need {len(self.labels) + 1} rows of values")
        self._rows = {label: row for row, label in enumerate(self.labels)}
        self.out_of_fold = values.shape[1]
        onehot = torch.cat([torch.eye(len(self.labels)), shares.reshape(1, -1)])
        self._table = torch.cat([onehot, values], dim=1)
        self.size = self._table.shape[1]

    def __call__(self, prompts: Sequence[str], groups: Sequence[str] | None) -> Tensor:
        """Columns [T, G + N] float32."""
        other = len(self.labels)
        rows = [other] * len(prompts) if groups is None else [self._rows.get(name, other) for name in groups]
        return self._table[torch.tensor(rows, dtype=torch.int64)]

    def spec(self) -> dict[str, Any]:
        """The part without its tensors, as JSON."""
        return {"kind": "group", "labels": self.labels}

    def tensors(self) -> dict[str, Tensor]:
        """The fitted tensors by name."""
        return {"values": self.values, "shares": self.shares}


PARTS: dict[str, Callable[..., Part]] = {
    "terms": Terms,
    "length": Length,
    "group": Group,
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

    Raises:
        RouterError: there are none.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        if not parts:
            raise RouterError("text features need at least one part")
        self.parts = tuple(parts)
        self.size = sum(part.size for part in parts)

    def __call__(self, prompts: Sequence[str], groups: Sequence[str] | None = None) -> Tensor:
        """Features [T, D] float32.

        Args:
            prompts: T texts.
            groups: the task or subject of each; None where unknown.

        Raises:
            RouterError: there are not as many groups as prompts.
        """
        if groups is not None and len(groups) != len(prompts):
            raise RouterError(f"{len(prompts)} prompts have {len(groups)} groups; give one each, or none")
        return torch.cat([part(prompts, groups) for part in self.parts], dim=1)

    @property
    def out_of_fold(self) -> tuple[tuple[int, ...], ...]:
        """Columns that predict the experts' quality, N for each part that has them."""
        columns: list[tuple[int, ...]] = []
        end = 0
        for part in self.parts:
            end += part.size
            count = part.out_of_fold if isinstance(part, Terms | Group) else 0
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
    def of(cls, spec: Sequence[Mapping[str, Any]], tensors: Mapping[str, Tensor]) -> TextFeatures:
        """Build a pipeline from what `spec` and `tensors` gave, of this version or of version 1.

        Raises:
            RouterError: a part is unknown, or lacks something.
        """
        parts: list[Part] = []
        for index, entry in enumerate(spec):
            arguments = {_VERSION_1.get(name, name): value for name, value in entry.items()}
            kind = arguments.pop("kind", None)
            if kind not in PARTS:
                raise RouterError(f"text part {kind!r} is unknown; known: {', '.join(sorted(PARTS))}")
            own = {
                name.split(".", 1)[1]: value
                for name, value in tensors.items()
                if name.startswith(f"{index}.")
            }
            try:
                parts.append(PARTS[kind](**arguments, **own))
            except TypeError as error:
                raise RouterError(f"text part {kind!r} does not take what the file says: {error}") from error
        return cls(parts)
