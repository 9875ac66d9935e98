"""Divides the time of a calibration among what it measures, and predicts each whole from parts of growing size."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from alignbench.worker.clock import busy_clock

SMALLEST, SECOND = 2, 5
"""Rows of the first part, and of a second, which tells what is done once from what each row takes: a training of five
rows on a model of 135 million weights took 3.2 s, of which 1.9 were done once."""

GROWTH = 5
"""How many times as large the next part is, where the first was too small."""

WORTH = 2
"""A further part is measured where it can be so many times as large as the last."""

FIXED = 0.5
"""Share of the time of a first part that is taken to be done once, until two parts were measured."""

SHARES = 3
"""About how many fair shares of the time left a first part may take: most need less than one."""

OF_A_LONG_RUN = 0.03
"""Share of what the whole will take that measuring may take although that is more than it was given."""

PATIENCE = 0.75
"""Share of its time that measuring may take for a first part, where that is at most OF_A_LONG_RUN of its whole."""

MOST = 5
"""Times its time that measuring takes at most, however long the run is."""

Measure = Callable[[int, int], float]
"""Measures a part of a whole, and returns the seconds."""


class OutOfTime(BaseException):
    """A part took longer than it may. No Exception: nothing on the way is to handle it."""


class SharedTime:
    """The time of a whole calibration, and what shares it."""

    def __init__(self, seconds: float, began: float, count: int):
        self.seconds, self.began, self.left = seconds, began, count
        self.series: list[Series] = []
        """What was measured so far."""

    def foretold(self) -> float:
        """Return what the whole of everything measured so far will take."""
        return sum(one.foretold() for one in self.series)

    def ends(self) -> float:
        """Return when all is to be measured; a long run has more time."""
        return self.began + min(max(self.seconds, OF_A_LONG_RUN * self.foretold()), MOST * self.seconds)

    def begin(self, one: Series) -> None:
        """Measure the first part of a series, in a few shares of what is left at most.

        A part that is at most OF_A_LONG_RUN of its whole is worth its time, however little is left: of many such parts
        the sum is no larger share of the run.
        """
        left = max(0.0, self.ends() - busy_clock())
        seconds = left * SHARES / (self.left + SHARES - 1)
        if (
            one.smallest <= OF_A_LONG_RUN * one.times * one.whole
            and busy_clock() < self.began + MOST * self.seconds
        ):
            seconds = max(seconds, PATIENCE * self.seconds)
        one.begin(seconds)
        self.series.append(one)
        self.left -= 1

    def separate(self, until: float) -> None:
        """Measure second parts until then, first of what is guessed most of."""
        waiting = [one for one in self.series if one.separable()]
        for one in sorted(waiting, key=Series.unsure, reverse=True):
            if busy_clock() + one.separating() <= until:
                one.separate()

    def skip(self, count: int) -> None:
        """Leave the share of `count` series to the others."""
        self.left -= count


class Series:
    """Growing parts of a whole, and what they took."""

    def __init__(
        self,
        whole: int,
        work: Measure,
        failed: Callable[[str], None],
        smallest: int = SMALLEST,
        second: int | None = None,
        fixed: float = FIXED,
    ):
        self.whole, self.work, self.failed = whole, work, failed
        self.smallest, self.second, self.fixed = min(smallest, whole), second and min(second, whole), fixed
        self.most = whole
        """The size from which nothing grows any more."""
        self.times = 1.0
        """How often the whole is done."""
        self.points: list[tuple[int, float]] = []
        """Sizes and seconds, the smallest part first."""

    def begin(self, seconds: float) -> None:
        """Measure a small part; where it fails, larger ones, until `seconds` are spent. The last may take as long."""
        ends, why, size = busy_clock() + seconds, "", self.smallest
        while not self.points:
            why = self._take(size, seconds)
            if size == self.whole or busy_clock() >= ends:
                break
            size = min(GROWTH * size, self.whole)
        if not self.points:
            self.failed(why)

    def separable(self) -> bool:
        """Return whether a second part would tell what is done once from what each row takes."""
        at = self.points[0][0] if len(self.points) == 1 else self.most
        return at < self.most and self.second not in (None, at)

    def separating(self) -> float:
        """Return the seconds that the second part is expected to take."""
        (size, took), second = self.points[0], self.second or 0
        return took * (self.fixed + (1 - self.fixed) * second / size)

    def unsure(self) -> float:
        """Return the seconds of the whole that are guessed while the first part is the only one."""
        size, took = self.points[0]
        return self.times * self.fixed * took * max(0.0, self.most / size - 1)

    def separate(self) -> None:
        """Measure the second part."""
        assert self.second is not None
        self._take(self.second, 2 * self.separating())

    def grow(self, seconds: float) -> None:
        """Measure the largest part that `seconds` suffice for, if it says more than the last."""
        if not self.points or self.points[-1][0] >= self.most:
            return
        last, took = self.points[-1]
        size = min(last + int(max(0.0, seconds - took) / max(self._slope(), 1e-9)), self.most)
        if size >= min(WORTH * last, self.most):
            self._take(size, 2 * seconds)

    def at(self, size: int) -> float:
        """Return what a part is expected to take."""
        return self.points[-1][1] + self._slope() * (size - self.points[-1][0]) if self.points else 0.0

    def _slope(self) -> float:
        """What a row takes more: by the last two parts, and no less than a quarter of what one of the last took."""
        last, took = self.points[-1]
        if len(self.points) == 1:
            return (1 - self.fixed) * took / last
        before, less = self.points[-2]
        return max(took / last / 4, (took - less) / (last - before))

    def foretold(self) -> float:
        """Return what the whole is expected to take, as often as it is done."""
        return self.times * self.at(self.most)

    def _take(self, size: int, seconds: float) -> str:
        """Measure one part; return why it failed."""
        began = busy_clock()
        try:
            with limited(seconds):
                self.points.append((size, self.work(size, self.whole)))
                self.points.sort()
        except OutOfTime:
            return f"{size} of {self.whole} took longer than {busy_clock() - began:.0f} s"
        except Exception as error:
            return str(error) or type(error).__name__
        return ""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise OutOfTime inside, once `seconds` of this process's own clock have passed."""
    began = busy_clock()

    def late(*_: object) -> None:
        left = seconds - (busy_clock() - began)
        if left <= 0:
            raise OutOfTime
        signal.setitimer(signal.ITIMER_REAL, max(left, 0.01))

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
