"""A part of sampan-netd: what it can be asked for, and whether it still serves anybody."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from sampan.linux.messages import Message

Operation = Callable[[Message, list[int]], Any]
"""Carries out a request on the loop's thread and gives plain data. What it takes out of the list of descriptors is its
own from then on; the others are closed. Raises `SampanError`.
"""


class Service(ABC):
    """One part. It is made while the loop runs, in the host's network namespace."""

    @abstractmethod
    def operations(self) -> Mapping[str, Operation]:
        """Give the requests it answers, by name."""

    @property
    @abstractmethod
    def serving(self) -> bool:
        """Whether anybody needs it: a process whose daemon is gone ends when no service serves."""

    @abstractmethod
    def close(self) -> None:
        """Stop serving, at the end of the process."""
