"""``FileWriteStream``: writing a file, by AnyIO's methods and Trio's."""

from __future__ import annotations

import errno
import io
import os
import stat
from types import TracebackType
from typing import Any, NamedTuple, final

import anyio
import anyio.abc
import trio

from .._errors import BrokenResourceError
from .._kernel.fd import FileKind
from .._kernel.signal_handlers import is_from_handler
from .._loops import Loop, current_loop
from .._public import public
from .._unclosed import disown, is_inherited, opened_at
from .atomic import Replacement
from .base import FileStream, open_own_nonblocking
from .descriptor import OpenFile
from .objects import check_object
from .protocols import BinaryWriter, WrappedWriter
from .sinks import ObjectSink, PolledSink, Sink, ThreadSink

# For a FIFO whose reader is not there yet: how often opening it is tried (seconds), since the kernel reports nothing.
_TRY_AGAIN = 0.02


@public
@final
class FileWriteStatistics(NamedTuple):
    """The counters of a :class:`FileWriteStream`."""

    sent_bytes: int
    """The bytes that the file has taken."""
    thread_hops: int
    """Calls of a worker thread."""
    short_writes: int
    """Writes that took less than they were given, and were completed."""


@public
@final
class FileWriteStream(FileStream, anyio.abc.ByteSendStream, trio.abc.SendStream):
    """Writes a file: an :class:`anyio.abc.ByteSendStream` and a :class:`trio.abc.SendStream`.

    A worker thread writes, since a write may wait for the disk. Pipes, FIFOs and terminals are waited for without a
    thread; objects whose bytes are not their descriptor's are written through their own methods. One task at a time may
    send.
    """

    def __init__(self, file: BinaryWriter | WrappedWriter) -> None:
        """Wrap a file.

        :param file: a file object that is open for writing in binary mode, or AnyIO's or Trio's wrapper of one. The
            stream owns it, and closes it. What the object still buffers is flushed first.
        :raises TypeError: it is no binary file, or it is a path
        :raises ValueError: it is closed, or not open for writing
        """
        super().__init__(file, writable=True)
        self._replacement: Replacement | None = None
        # Why a further send would leave a gap in the file.
        self._cut: str | None = None
        self._is_incomplete = False
        self._is_replaced = False
        self._sink: Sink
        if self._opened is None:
            check_object(self._file, "write")
            self._sink = ObjectSink(self._file)
        else:
            self._sink = sink_for(self._opened)
        self._begin()

    @classmethod
    async def from_path(
        cls, path: str | os.PathLike[str], append: bool = False, *, atomic: bool = False
    ) -> FileWriteStream:
        """Open a file for writing, creating it if it does not exist.

        :param append: write at its end; otherwise it is emptied
        :param atomic: write a new file in the same directory (``.NAME.xxxxxxxx.roket-part``), and replace the file by
            that on a clean close, synced to the disk. After a send that failed or was cancelled, an error that leaves
            ``async with``, a cancelled close, :meth:`discard`, or no close at all, the new file is deleted and the old
            one is as it was. After a crash of the process the new file may remain.
            The new file has the owner, group and mode of the old one, and on Linux its access control list and its
            extended attributes. Only root can keep another user's file his. Where the group cannot be kept, the mode is
            narrowed to what everybody could do. Set-user-ID, set-group-ID and capabilities are dropped.
        :raises ValueError: both ``append`` and ``atomic``; ``atomic`` for what is no regular file
        :raises PermissionError: the path is another user's link or file in a directory that everybody can write to,
            such as /tmp (as Linux's ``fs.protected_symlinks`` and ``fs.protected_regular`` have it)
        :raises OSError: whatever :func:`open` raises; ``atomic``, and an access control list or an extended attribute
            cannot be kept

        If it is a FIFO, this waits until it has a reader. Cancellation: no file is left open, and no new one remains.
        """
        if append and atomic:
            raise ValueError("a file cannot be appended to and replaced at once")
        place = opened_at()
        loop = current_loop()
        name = os.fspath(path)
        replacement: Replacement | None = None
        if atomic:
            replacement = await loop.run_in_thread(Replacement, name)
            file = replacement.file
        else:
            while True:
                try:
                    file = await loop.run_in_thread(_open_to_write, name, append)
                    break
                except OSError as error:
                    if error.errno != errno.ENXIO or is_from_handler(error):
                        raise
                    if not await loop.run_in_thread(_is_fifo, name):  # noqa: ASYNC120 - it is raised in any case
                        raise
                await anyio.sleep(_TRY_AGAIN)
        try:
            stream = cls(file)
            stream._replacement = replacement
            stream._opened_from_path(place, os.fsdecode(name))
            if replacement is not None:
                disown(replacement)  # the stream owns it
        except BaseException:  # of a signal's handler, whose traceback would keep the file
            if replacement is not None:
                replacement.drop()
            file.close()
            raise
        return stream

    async def send(self, item: bytes | bytearray | memoryview) -> None:
        """Write all of ``item`` at the file's position, or at its end if it was opened for appending.

        :raises BrokenResourceError: writing failed; the message names the file, the errno and "N of M bytes". Or an
            earlier send was cut
        :raises ClosedResourceError: the stream is closed, or was closed while this waited for a pipe
        :raises BusyResourceError: another task is sending

        Cancellation: checked before anything is written; a worker thread that writes is waited for. Only a send that
        waits for a pipe can be cancelled in the middle. That cuts the stream: later sends fail.
        """
        await self._send(item, at_once=False)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write as Trio's streams do: each call is a full checkpoint. See :meth:`send` for the rest."""
        await self._send(data, at_once=True)

    async def _send(self, item: bytes | bytearray | memoryview, *, at_once: bool) -> None:
        # Held to the end, so that whoever resizes the buffer gets BufferError.
        with memoryview(item) as view:
            if view.format == "B" and view.ndim == 1 and view.contiguous:
                await self._send_view(view, at_once)
            else:
                with view.cast("B") as flat:
                    await self._send_view(flat, at_once)

    async def _send_view(self, flat: memoryview, at_once: bool) -> None:
        loop = self._loop or self._running_loop()
        self._check_open()
        guard = self._guard
        if guard.is_taken:
            self._is_incomplete = True
            guard.check()  # raises
        try:
            guard.is_taken = True
            self._sink.counts.item_sent = 0
            await (loop.checkpoint() if at_once else loop.step())
            self._check_open()  # another task may have closed it meanwhile
            if self._cut is not None:
                raise BrokenResourceError(self._cut)
            if flat.nbytes:
                await self._sink.write(flat, self._worker_of(loop))
        except OSError as error:
            self._note(flat.nbytes)
            self._raise("writing", error, f" after {self._sink.counts.item_sent} of {flat.nbytes} bytes")
        except BaseException:
            self._note(flat.nbytes)
            raise
        finally:
            guard.is_taken = False
            guard.release()

    def _note(self, total: int) -> None:
        """Note that a send of ``total`` bytes was not completed."""
        self._is_incomplete = True
        done = self._sink.counts.item_sent
        if done < 0:
            self._cut = f"an earlier send to {self._name} was cut after at least {~done} of {total} bytes"
        elif 0 < done < total and isinstance(self._sink, PolledSink):
            self._cut = f"an earlier send to {self._name} was cut after {done} of {total} bytes"

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until :meth:`send_all` might not have to wait for a pipe. Only one task may send or wait for that."""
        loop = self._loop or self._running_loop()
        await loop.checkpoint()
        self._check_open()
        self._check_free()
        guard = self._guard
        try:
            guard.is_taken = True
            await self._sink.wait_ready(self._worker_of(loop))
        except OSError as error:
            self._raise("waiting for", error)
        finally:
            guard.is_taken = False
            guard.release()

    async def aclose(self) -> None:
        """Flush and close the file, even if it was opened by the caller and wrapped. If it is ``atomic``, replace its
        target.

        A task that waits for a pipe gets :class:`ClosedResourceError`. A worker thread that writes is waited for.
        Idempotent; a second call waits for the first. In a process that was forked meanwhile it closes the copy of the
        descriptor there and does nothing else, as :meth:`discard` does: the file is the parent's.

        :raises BrokenResourceError: flushing, syncing, closing or replacing failed; or an ``atomic`` file is
            incomplete, since a send had failed or was cancelled. The descriptor is gone nevertheless

        Cancellation: the descriptor is gone before ``Cancelled`` is raised; an ``atomic`` file that has not yet begun
        to replace its target is discarded.
        """
        if is_inherited(self):
            self._leave()
            return
        loop = self._running_loop()
        if self._replacement is None:
            await self._end(loop, self._close_file)
            await loop.checkpoint()
        elif self._released is not None:
            await self._end(loop, self._discard)
            await loop.checkpoint()
        else:
            await self._commit(loop)

    async def _commit(self, loop: Loop) -> None:
        # A send that is under way in a thread is completed first: whether it succeeds decides.
        self._is_closing = True
        try:
            await loop.checkpoint()
        except BaseException:
            await self._end(loop, self._discard)  # noqa: ASYNC102 - _end() is shielded
            raise
        await self._end(loop, self._replace_target)
        if not self._is_replaced:
            why = "a send had failed or was cancelled" if self._is_incomplete else "another task has discarded it"
            raise BrokenResourceError(f"{self._path} was not replaced: {why}")

    async def discard(self) -> None:
        """Close an ``atomic`` file and delete it; its target stays as it was. Idempotent. Too late after a close.

        :raises RuntimeError: the stream is not ``atomic``: what was sent is in the file already
        :raises BrokenResourceError: the file could not be deleted

        Cancellation: the file is gone before ``Cancelled`` is raised.
        """
        if self._replacement is None:
            raise RuntimeError("only a stream that was opened with atomic=True can be discarded")
        if is_inherited(self):
            self._leave()
            return
        loop = self._running_loop()
        await self._end(loop, self._discard)
        await loop.checkpoint()

    def _replace_target(self) -> None:
        """In a worker thread: sync and close the file, and rename it; or discard it if it is incomplete."""
        assert self._replacement is not None
        if self._is_incomplete:
            self._discard()
            return
        try:
            self._replacement.sync()
            self._file.close()
        except BaseException:
            self._discard()
            raise
        self._replacement.rename()
        self._is_replaced = True

    # The function is bound as a default, since modules are emptied when the interpreter ends.

    def _discard(self, _is_from_handler: Any = is_from_handler) -> None:
        """In a worker thread, or in a finalizer: close the file and delete it."""
        assert self._replacement is not None
        try:
            self._file.close()
        except OSError as error:
            if _is_from_handler(error):
                raise
        finally:
            self._replacement.drop()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if exc is not None and self._replacement is not None:
            await self.discard()  # noqa: ASYNC102 - shielded, and only a disk's time
        else:
            await self.aclose()

    def statistics(self) -> FileWriteStatistics:
        """The stream's counters."""
        counts = self._sink.counts
        return FileWriteStatistics(counts.sent_bytes, counts.thread_hops, counts.short_writes)

    def _wake(self) -> None:
        self._sink.wake()

    def _release(self) -> None:
        self._sink.release()

    def _leave_copies(self) -> None:
        self._sink.leave()
        if self._replacement is not None:
            self._replacement.leave()

    def _collected(self) -> None:
        if self._replacement is not None:
            self._discard()
        else:
            super()._collected()


def sink_for(file: OpenFile) -> Sink:
    """Choose how to write ``file``: at its position, or at its end if it was opened for appending."""
    if file.kind is FileKind.STREAM:
        return PolledSink(file)
    if file.kind is FileKind.REGULAR and not file.append:
        file.settle()
    return ThreadSink(file)


def _open_to_write(path: str, append: bool) -> io.FileIO:
    """In a worker thread: open without waiting for the other end of a FIFO."""
    return open(path, "ab" if append else "wb", buffering=0, opener=open_own_nonblocking)


def _is_fifo(path: str) -> bool:
    return stat.S_ISFIFO(os.stat(path).st_mode)
