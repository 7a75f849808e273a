"""What every route of the kernel is: sendfile, splice, copy_file_range."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from .progress import Progress


class KernelRoute(ABC):
    """System calls that move bytes from one end to the other without bringing them into user space."""

    __slots__ = ()

    name: ClassVar[str]

    @abstractmethod
    async def run(self, progress: Progress) -> bool:
        """Move what is left, and count it in ``progress``.

        What has left the source and not reached the sink when this ends is put into ``progress.unsent``.

        :returns: False when the kernel has refused a call, which has moved nothing
        """
