"""The command line in a process of its own: whatever happens there ends in one line, an exit code and no stray files.

Native code that runs a model may crash on one that is made for it, allocate without end or never return. The process
that does the work is therefore a child; this one waits, passes signals on, names what happened and tidies up.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import sys
import tempfile
import traceback
from contextlib import suppress
from pathlib import Path
from types import FrameType

# How long a run that was asked to end may take to do so.
GRACE_SECONDS = 10
_END = (signal.SIGINT, signal.SIGTERM)
_INTERRUPTED = 130
_JOURNAL = "journal"
# Not what outputs being made are called: whoever writes where temporary files lie would take it for one left behind.
_SCRATCH = "graphprune-run-"


def main() -> None:
    """Run the command line; does not return."""
    if not hasattr(os, "fork"):
        from graphprune.cli.verbs import main as run

        run()
        return
    temporary = Path(tempfile.gettempdir())
    scratch = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=temporary))
    try:
        child = os.fork()
        if not child:
            _work(scratch)
        status, asked = _wait(child)
        if os.WIFSIGNALED(status):
            _tidy(scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if os.WIFSIGNALED(status) and not asked:
        sys.exit(_explain(os.WTERMSIG(status)))
    code = _INTERRUPTED if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    if code == _INTERRUPTED:
        print("error: interrupted; earlier results are as they were", file=sys.stderr)
    sys.exit(code)


def _work(scratch: Path) -> None:
    """What the child does; never returns to the caller."""
    stopping = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True
        for end in _END:  # once is enough: what follows is tidying up
            signal.signal(end, signal.SIG_IGN)
        raise KeyboardInterrupt

    for end in _END:
        signal.signal(end, stop)
    _end_with_parent()
    os.environ["TMPDIR"] = tempfile.tempdir = str(scratch)
    code = 1
    try:
        from graphprune import output
        from graphprune.cli import limits, verbs

        limits.supervised = True
        output.journal = scratch / _JOURNAL
        verbs.main(lambda: stopping)
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except MemoryError:  # even for saying so
        code = 9
    except BaseException:
        if stopping:  # what is being loaded makes other errors of it
            code = _INTERRUPTED
        else:  # the installation is broken
            traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError:  # nobody reads any more
                code = code or 1
        shutil.rmtree(scratch, ignore_errors=True)
        os._exit(code)


def _end_with_parent() -> None:
    """Ask Linux to end this process as soon as its parent is gone."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _wait(child: int) -> tuple[int, bool]:
    """The child's status, and whether it was asked to end: such signals are passed on, and become an order in time."""
    asked = False

    def forward(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        try:
            os.kill(child, number)
        except ProcessLookupError:
            return
        signal.alarm(GRACE_SECONDS)

    signal.signal(signal.SIGALRM, lambda number, frame: os.kill(child, signal.SIGKILL))
    for end in _END:
        signal.signal(end, forward)
    status = os.waitpid(child, 0)[1]
    signal.alarm(0)
    return status, asked


def _tidy(scratch: Path) -> None:
    from graphprune.output import settle

    journal = scratch / _JOURNAL
    if journal.exists():
        for folder in set(journal.read_text("utf-8", "surrogateescape").split("\0")[:-1]):
            settle(Path(folder))


def _explain(number: int) -> int:
    """Say why the child ended by a signal; the exit code for that."""
    from graphprune.errors import GraphpruneError, LimitError

    if number == signal.SIGALRM:
        error: GraphpruneError = LimitError("the run took longer than it may", "raise the limit with --max-seconds")
    elif number == signal.SIGKILL:
        error = LimitError("the run was killed, perhaps for want of memory", "set a limit with --max-memory")
    else:
        error = GraphpruneError(
            f"native code crashed ({signal.Signals(number).name})",
            "the model may be malformed; where it runs elsewhere, please report it",
        )
    print(f"error: {error}\nhint: {error.hint}", file=sys.stderr)
    return error.exit_code


if __name__ == "__main__":
    main()
