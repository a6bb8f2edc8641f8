"""What the programs of the tests share: how they are called, and how an answer's time is taken."""

import faulthandler
import sys
import time

# Nothing here may take longer: what hangs says where.
faulthandler.dump_traceback_later(90, exit=True)


def until(what, at_most=60.0):
    """Tries until it does not raise."""
    end = time.monotonic() + at_most
    while True:
        try:
            return what()
        except Exception:
            if time.monotonic() > end:
                raise
        time.sleep(0.05)


def store(first, work):
    """A client of a store, as `wait HOST`, `first HOST` (prints how many milliseconds each of several fresh connections
    took to its first answer) or `work HOST`."""
    what, host = sys.argv[1:3]
    if what == "wait":
        until(lambda: first(host))
    elif what == "first":
        for _ in range(8):
            begun = time.perf_counter()
            first(host)
            print(f"{(time.perf_counter() - begun) * 1000:.3f}")
    else:
        work(host)
        print("done")
