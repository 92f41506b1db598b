"""What tables, pages and comparisons know of a metric. It is stored with every number, so that they need no plug-in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

# Names, among the details of a score, of what its number can be compared with; `n_floor`, ...: of how many images they are.
BOUNDS = ("floor", "ceiling", "original", "chance")


class Descriptor(BaseModel):
    """A metric with its options, described.

    >>> Descriptor(name="mine", title="Mine", lower_is_better=True, per_image=True).heading
    'Mine ↓'
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str = Field(description="Name of the entry point.")
    options: dict[str, Any] = Field({}, description="All options, defaults included.")
    title: str = Field(description="In tables; options that change the scale are part of it.")
    unit: str = ""
    decimals: int = Field(3, ge=0, le=12, description="Digits shown.")
    lower_is_better: bool
    per_image: bool = Field(description="Whether each picture has a score; else it is one number for the whole set.")
    in_paper: bool = Field(False, description="Whether the SGA paper reports this quantity.")
    note: str = Field("", description="A remark, for the model card.")
    truth: bool = Field(False, description="Whether it holds pictures to right answers, which only some datasets know.")
    companion: str = Field("", description="Name of the metric that copying a reference would lose, where it would win this.")
    gap: bool = Field(False, description="Whether tables show how it differs between the protocols `same` and `cross`.")
    floor_is: str = Field("", description="What `floor` among its details is the number of, for notes below tables.")
    ceiling_is: str = Field("", description="The same of `ceiling`.")
    package: str = "attnbench"
    version: str = ""

    @property
    def heading(self) -> str:
        return f"{self.title_with_unit} {'↓' if self.lower_is_better else '↑'}"

    @property
    def title_with_unit(self) -> str:
        return f"{self.title} ({self.unit})" if self.unit else self.title

    def bound(self, name: str) -> str:
        """`floor, real training against real test images`: what a number of BOUNDS among a score's details is."""
        usual = "" if self.per_image else "real training against real test images"
        meanings = {
            "floor": self.floor_is or usual,
            "ceiling": self.ceiling_is or usual,
            "original": "what the sketches' own originals score",
            "chance": "without a look at the reference",
        }
        return ", ".join(filter(None, [name, meanings[name]]))

    def written(self, value: float, sign: str = "") -> str:
        return f"{value:{sign}.{self.decimals}f}"

    def best_of(self, values: Mapping[Any, float]) -> Any:
        """The key of the best value; of equal ones, the first."""
        return (min if self.lower_is_better else max)(values, key=lambda key: values[key])


def key_of(name: str, given: Mapping[str, Any]) -> str:
    """How a metric is named in records, tables and on the command line: with the options that differ from their defaults.

    >>> key_of("fid", {"dims": 192}), key_of("fid", {})
    ('fid:dims=192', 'fid')
    """
    return ":".join([name, *(f"{option}={_plain(value)}" for option, value in given.items())])


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def shown_by_default(metrics: Mapping[str, Descriptor], asked: Iterable[str], papers: Sequence[str]) -> list[str]:
    """Columns of a table, whatever the dataset: a paper's metrics and those of other packages; or all, where the paper's first
    was not asked for.

    Args:
        asked: keys.
        papers: names of the metrics that the paper reports, in its order.
    """
    asked = [key for key in asked if key in metrics]
    if not papers or papers[0] not in {metrics[key].name for key in asked}:
        return asked
    return [key for key in asked if metrics[key].name in papers or metrics[key].package != "attnbench"]


def matching(metrics: Iterable[str], asked: str) -> list[str]:
    """The keys that a name stands for: itself, or the metric with any options.

    >>> matching(["fid", "fid:dims=192", "kid"], "fid"), matching(["fid", "fid:dims=192"], "fid:dims=192")
    (['fid', 'fid:dims=192'], ['fid:dims=192'])
    """
    return [key for key in metrics if key == asked or key.partition(":")[0] == asked]
