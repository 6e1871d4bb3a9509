"""Asynchronous work that stops at once: at an error, at Ctrl-C, at a notebook's stop button."""

import asyncio
import contextlib
import math
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future

GRACE = 10.0  # seconds that what is in flight gets to come back in after an interruption


class Interruptible:
    """Coroutines that begin nothing once `stop` was called or the caller was interrupted."""

    def __init__(self, interruption: Exception):
        """`interruption` is the error for what was not done after one."""
        self.interruption = interruption
        self.error, self.interrupted, self.loop = None, False, None

    def run(self, work: Callable[[], Awaitable]):
        """The result of a coroutine function, in a thread of its own: a notebook's has a loop."""
        result = Future()

        async def watched():
            self.loop, self.stopped = asyncio.get_running_loop(), asyncio.Event()
            found = await work()
            if self.error:
                raise self.error
            return found

        def fulfil():
            try:
                result.set_result(asyncio.run(watched()))
            except BaseException as error:
                result.set_exception(error)

        # a daemon, so that a process that ends does not wait for a server
        thread = threading.Thread(target=fulfil, daemon=True)
        try:
            thread.start()
            return result.result()
        except BaseException:
            if not result.done():
                self.interrupted = True  # before anything is scheduled: nothing leaves meanwhile
                with contextlib.suppress(AttributeError, RuntimeError):  # not begun, or over
                    self.loop.call_soon_threadsafe(self._interrupt)
                # longer than the grace, so that what is given up then is still counted as spent
                thread.join(GRACE + 1)
            raise

    def stop(self, error: Exception) -> None:
        """Let nothing leave from now on; the first error is the one that is raised."""
        self.error = self.error or error
        self.stopped.set()

    def goes_on(self) -> bool:
        """Whether anything may leave: not after an error, nor when whoever wanted it is gone."""
        # no KeyboardInterrupt reaches a call from another thread: it sees that the main one is over
        if self.interrupted or not threading.main_thread().is_alive():
            self._interrupt()
        return not self.error

    async def sleep(self, seconds_left: Callable[[], float]) -> None:
        """Sleep while time is left, which may grow meanwhile, but not beyond the end of all."""
        while self.goes_on() and (seconds := seconds_left()) > 0:
            with contextlib.suppress(TimeoutError):
                # by the second: nothing wakes a loop whose main thread has ended
                await asyncio.wait_for(self.stopped.wait(), min(seconds, 1.0))

    async def end_of_grace(self) -> None:
        """Return when an interruption's time is over; after an error, never."""
        await self.stopped.wait()
        await asyncio.sleep(GRACE if self.interrupted else math.inf)

    def _interrupt(self) -> None:
        self.interrupted = True
        self.stop(self.interruption)
