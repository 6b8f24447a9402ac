"""When checkpoints are taken, and the thread that writes them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from mvad.model.config import TrainConfig
from mvad.model.training.checkpoint import Frozen, frozen_name, newest_step, write_checkpoint, write_frozen
from mvad.model.training.tensor_file import TensorFile, tensor_file


@dataclass(frozen=True)
class Content:
    """What a checkpoint holds.

    Attributes
    ----------
    begin
        Number of steps before the phase that comes next or goes on.
    changing, frozen
        Tensors that the phase changes, with the state of its optimizers, and tensors that it does not change.
    """

    begin: int
    changing: Mapping[str, Tensor]
    frozen: Mapping[str, Tensor]


class CheckpointWriter:
    """Takes checkpoints in the thread of the training, and writes them one after the other in a thread of its own.

    Parameters
    ----------
    run
        The run's folder.
    content
        Returns the content of the checkpoint after a number of steps; called in the thread of the training.
    first, total
        Number of steps that are finished, and of all steps.
    config
        ``checkpoint_seconds``, ``checkpoint_every`` and ``keep_checkpoints``.
    frozen
        Frozen part of the checkpoint from which the training goes on; it is not written again.
    writes
        False in all processes but one of those that train together.
    clock
        Seconds since some moment.
    """

    def __init__(
        self, run: Path, content: Callable[[int], Content], first: int, total: int, config: TrainConfig,
        frozen: Frozen | None = None, writes: bool = True, clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._run, self._content, self._config, self._clock = run, content, config, clock
        self._facts = {"steps": total}
        self._saved, self._taken_at = first, clock()
        self._frozen, self._writes = frozen, writes
        self._written: threading.Event | None = None
        self._error: BaseException | None = None

    def due(self, step: int) -> bool:
        """Return whether a checkpoint is to be taken after this step; costs a look at the clock.

        By time, none is due while one is being written, so that a slow disk delays checkpoints and not the training.

        Raises
        ------
        BadInput
            If an earlier checkpoint could not be written.
        """
        self._raise_error()
        every, seconds = self._config.checkpoint_every, self._config.checkpoint_seconds
        if not self._writes:
            return False
        if every and step % every == 0:
            return True
        is_writing = self._written is not None and not self._written.is_set()
        return 0 < seconds <= self._clock() - self._taken_at and not is_writing

    def save(self, step: int) -> None:
        """Take a checkpoint, unless there is one of this step; wait for one that is still being written.

        Raises
        ------
        BadInput
            If an earlier checkpoint could not be written.
        """
        if step <= self._saved or not self._writes:
            return
        self.finish()
        content = self._content(step)
        name, names = frozen_name(content.begin), frozenset(content.frozen)
        is_written = self._frozen is not None and (self._frozen.file, self._frozen.names) == (name, names)
        changing = tensor_file(content.changing)
        frozen = None if is_written or not names else tensor_file(content.frozen)
        if not names:
            self._frozen = None
        self._saved, self._taken_at = step, self._clock()
        self._written = threading.Event()  # waiting for the thread itself breaks it where a signal ends the wait (CPython 3.11)
        arguments = (step, changing, frozen, name, names, self._written)
        # A daemon: a process that is told twice to stop does not wait for the disk.
        threading.Thread(target=self._write, args=arguments, name=f"checkpoint {step}", daemon=True).start()

    def finish(self) -> None:
        """Wait until all that was taken is on the disk.

        Raises
        ------
        BadInput
            If a checkpoint could not be written.
        """
        self.close()
        self._raise_error()

    def close(self) -> None:
        """Wait as ``finish`` does; an error is left, since another one is on its way."""
        written, self._written = self._written, None
        if written is not None:
            self._writes = False  # if a second signal ends the wait, nothing is written beside this thread
            written.wait()
            self._writes = True

    def newest(self) -> int:
        """Return the step of the newest checkpoint on the disk, 0 where there is none."""
        self.close()
        return newest_step(self._run)

    def _write(
        self, step: int, changing: TensorFile, frozen: TensorFile | None, name: str, names: frozenset[str],
        written: threading.Event,
    ) -> None:  # fmt: skip
        try:
            if frozen is not None:
                self._frozen = Frozen(name, write_frozen(self._run, name, frozen), names)
            write_checkpoint(self._run, step, changing, self._frozen, self._facts, self._config.keep_checkpoints)
        except BaseException as error:  # raised in the thread of the training
            self._error = error
        finally:
            written.set()

    def _raise_error(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error
