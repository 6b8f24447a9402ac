"""A process that has imported what commands need, and forks a child for each of them.

Importing costs a command two to three seconds, most commands of the tests compute for less. ``python warm.py serve
SOCKET`` imports once, starts no thread, and waits; ``request`` sends a command, its surroundings and three open files,
and the child then does what ``python -m MODULE ARGUMENTS`` or ``python -c CODE`` does, down to its exit code or signal.
This file imports only the standard library, so that it can be a quick program itself: ``python -IS warm.py SOCKET
MODULE ARGUMENTS`` does the same from a shell.

What is not as in a process of its own: modules are loaded already, and variables that are read when Python or a library
starts (``PYTHONHASHSEED``, ``OMP_NUM_THREADS``) have the server's values. Tests about these start their own process.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import gc
import json
import os
import resource
import runpy
import select
import selectors
import signal
import socket
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

LIBRARIES = (
    "numpy", "torch", "torch._dynamo", "torch.utils.data", "scipy.ndimage", "scipy.spatial", "h5py", "hdf5plugin", "imagecodecs",
    "tifffile", "PIL.Image", "PIL.PngImagePlugin", "rich.console", "rich.progress", "rich.table", "pydantic.type_adapter",
    "typer._adapters", "yaml", "safetensors.torch", "efficientnet_lite_pytorch", "distributed", "distributed.deploy",
    "pyrender.platforms.egl", "pyrender", "open3d",
    "mvad.cli.main", "mvad.cli.console", "mvad.cli.tables", "mvad.pipeline.doctor", "mvad.pipeline.repair", "mvad.pipeline.evaluation",
    "mvad.pipeline.paper_files", "mvad.pipeline.predict", "mvad.pipeline.reproduce", "mvad.pipeline.training", "mvad.pipeline.verify",
    "mvad.datasets.export", "mvad.datasets.synth.generate", "mvad.datasets.shards.pack", "mvad.datasets.shards.contact_sheet",
    "mvad.datasets.verify", "mvad.render.job", "mvad.render.backends.cpu", "mvad.model.explain",
    "mvad.model.evaluation.evaluate", "mvad.model.evaluation.missing_views", "mvad.model.evaluation.scan_maps",
    "mvad.model.exchange.imported_maps", "mvad.model.idif.detector", "mvad.model.report.page", "mvad.model.exchange.onnx",
)  # fmt: skip
"""In this order: pyrender must load EGL before open3d loads its own GL (see ``mvad.render.backends.egl``)."""


class Serving:
    """The loop of the server: one child a connection, which is told how the child ended."""

    def __init__(self, place: str) -> None:
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(place)
        self.listener.listen(64)
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.listener, selectors.EVENT_READ)
        self.selector.register(0, selectors.EVENT_READ)
        self.connections: dict[int, tuple[socket.socket, int]] = {}
        """Process id to the connection that asked for it and the process's handle."""

    def run(self) -> dict[str, Any] | None:
        """Serve until standard input ends; returns the order to the child that is to carry it out, and None at the end."""
        while True:
            for key, _ in self.selector.select():
                if key.fileobj is self.listener:
                    order = self._begin()
                    if order is not None:
                        return order
                elif key.fileobj == 0:
                    for pid in self.connections:
                        os.kill(pid, signal.SIGKILL)
                    return None
                else:
                    self._end(key.data, key.fileobj)

    def _begin(self) -> dict[str, Any] | None:
        connection, _ = self.listener.accept()
        try:
            order, handles = _received(connection)
        except (OSError, ValueError):
            connection.close()
            return None
        pid = os.fork()
        if pid == 0:
            self.selector.close()
            self.listener.close()
            connection.close()
            for other, handle in self.connections.values():
                other.close()
                os.close(handle)
            for target, handle in enumerate(handles):
                os.dup2(handle, target)
                if handle > 2:
                    os.close(handle)
            return order
        for handle in handles:
            os.close(handle)
        process = os.pidfd_open(pid)
        self.connections[pid] = (connection, process)
        self.selector.register(process, selectors.EVENT_READ, pid)
        self.selector.register(connection, selectors.EVENT_READ, pid)
        with contextlib.suppress(OSError):
            connection.sendall(f"{pid}\n".encode())
        return None

    def _end(self, pid: int, what: object) -> None:
        """Tell who asked how its process ended; a process whose asker has gone is killed."""
        if pid not in self.connections:
            return
        connection, process = self.connections[pid]
        if what is connection:
            os.kill(pid, signal.SIGKILL)
            self.selector.unregister(connection)
            return
        del self.connections[pid]
        self.selector.unregister(process)
        os.close(process)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        with contextlib.suppress(KeyError):
            self.selector.unregister(connection)
        with contextlib.suppress(OSError):
            connection.sendall(f"{code}\n".encode())
        connection.close()


def _received(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    data, ancillary, _, _ = connection.recvmsg(1 << 16, socket.CMSG_SPACE(3 * array.array("i").itemsize))
    handles = array.array("i")
    for _, kind, content in ancillary:
        if kind == socket.SCM_RIGHTS:
            handles.frombytes(content)
    while not data.endswith(b"\n"):
        more = connection.recv(1 << 16)
        if not more:
            raise ValueError("half an order")
        data += more
    return json.loads(data), list(handles)


def _carried_out(order: Mapping[str, Any]) -> int:
    """Do what was asked for and return the exit code that Python gives it, or minus the signal that it dies of."""
    try:
        _carry_out(order)
    except SystemExit as leaving:
        if leaving.code is None or isinstance(leaving.code, int):
            return (leaving.code or 0) & 255
        print(leaving.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        sys.excepthook(*sys.exc_info())
        return -signal.SIGINT
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1
    return 0


def _leave(code: int) -> None:
    """End as Python does, except that nothing is taken apart that the end of a process frees."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        code = 120
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def _carry_out(order: Mapping[str, Any]) -> None:
    os.environ.clear()
    os.environ.update(order["environment"])
    os.chdir(order["folder"])
    if order["session"]:
        os.setsid()
    if order["file_bytes"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(order["file_bytes"]), resource.RLIM_INFINITY))
    sys.path[0] = "" if order["module"] is None else order["folder"]
    gc.enable()
    if order["module"] is not None:
        sys.argv = [order["module"], *order["arguments"]]
        sys.modules.pop(order["module"], None)  # it is run as ``__main__``, not imported
        runpy.run_module(order["module"], run_name="__main__", alter_sys=True)
    else:
        sys.argv = ["-c", *order["arguments"]]
        main = type(sys)("__main__")
        sys.modules["__main__"] = main
        exec(compile(order["code"], "<string>", "exec"), main.__dict__)


def serve(place: str) -> None:
    """Import, wait for orders, and in each child return to carry one out."""
    import importlib

    for name in LIBRARIES:
        with contextlib.suppress(ImportError):  # a command that needs it will say so
            importlib.import_module(name)
    from mvad.render.backends.triangles import warm_up

    warm_up()
    threads = len(os.listdir("/proc/self/task"))
    if threads > 1:
        raise SystemExit(f"{threads} threads run, which a fork would lose")
    gc.collect()
    gc.disable()
    gc.freeze()
    serving = Serving(place)
    os.write(1, b"ready\n")
    order = serving.run()
    if order is not None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _leave(_carried_out(order))


class Started:
    """A process that the server forked for us, as ``subprocess.Popen`` shows one."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.pid = self._number()
        self.returncode: int | None = None

    def _number(self) -> int:
        line = b""
        while not line.endswith(b"\n"):
            byte = self._connection.recv(1)
            if not byte:
                raise ConnectionError("the server of warm commands has ended")
            line += byte
        return int(line)

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait for its end and return its exit code, or minus the signal; after ``timeout_s`` it is killed.

        Raises
        ------
        TimeoutError
            If it takes longer.
        """
        if self.returncode is None:
            self._connection.settimeout(timeout_s)
            try:
                self.returncode = self._number()
            finally:
                self._connection.close()
        return self.returncode

    def killed_after(self, seconds: float) -> int:
        """Kill it after some time, and return what ``wait`` does: it may have ended before."""
        ready, _, _ = select.select([self._connection], [], [], seconds)
        if not ready:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        return self.wait()


def request(
    place: str,
    module: str | None,
    arguments: Sequence[str],
    folder: str,
    environment: Mapping[str, str],
    handles: Sequence[int],
    code: str = "",
    session: bool = False,
    file_bytes: int | None = None,
) -> Started:
    """Ask the server for a process.

    Parameters
    ----------
    place
        The server's socket.
    module, arguments, code
        What to run: ``-m module``, or ``-c code`` where ``module`` is None.
    folder, environment, handles
        Where, and with which variables and which standard input, output and error.
    session
        Whether the process leads a session, and so a process group, of its own.
    file_bytes
        The size beyond which no file can grow in it.
    """
    order = {
        "module": module, "arguments": list(arguments), "code": code, "folder": folder, "environment": dict(environment),
        "session": session, "file_bytes": file_bytes,
    }  # fmt: skip
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(place)
    data = json.dumps(order).encode() + b"\n"
    sent = socket.send_fds(connection, [data], list(handles))
    connection.sendall(data[sent:])
    return Started(connection)


def _from_a_shell(place: str, module: str, *arguments: str) -> None:
    process = request(place, module, arguments, os.getcwd(), os.environ, (0, 1, 2))
    _leave(process.wait())


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        sys.path[0] = str(Path(__file__).parents[1] / "src")
        sys.path.insert(1, str(Path(__file__).parent))
        serve(sys.argv[2])
    else:
        _from_a_shell(*sys.argv[1:])
