"""When jobs run on so many GPUs: what waits the longest chain comes first."""

import heapq

from vd.costs.estimate import Job


def longest_chain(jobs: list[Job]) -> float:
    """Seconds that no number of GPUs can shorten."""
    return max(_to_the_end(jobs).values(), default=0.0)


def wall_time(jobs: list[Job], gpus: int) -> float:
    """Seconds on that many GPUs; ValueError where a job wants more.

    List scheduling: of the jobs whose predecessors have ended, that with the longest chain behind
    it starts first, if it has room.
    """
    for job in jobs:
        if job.gpus > gpus:
            raise ValueError(f"{job.run}: {job.gpus} GPUs are wanted, and there are {gpus}")
    left = _to_the_end(jobs)
    waiting = {(job.run, job.stage): job for job in jobs}
    running, ended, free, now = [], set(), gpus, 0.0
    while waiting or running:
        ready = [
            key
            for key, job in waiting.items()
            if all(b not in left or b in ended for b in job.after)
        ]
        for key in sorted(ready, key=left.get, reverse=True):
            if waiting[key].gpus <= free:
                job = waiting.pop(key)
                free -= job.gpus
                heapq.heappush(running, (now + job.seconds, key, job.gpus))
        now, key, own = heapq.heappop(running)
        free += own
        ended.add(key)
    return now


def _to_the_end(jobs: list[Job]) -> dict[tuple[str, str], float]:
    """Seconds from a job's start to the end of the longest chain behind it."""
    behind = {}
    for job in jobs:
        for before in job.after:
            behind.setdefault(before, []).append((job.run, job.stage))
    own = {(job.run, job.stage): job.seconds for job in jobs}
    found = {}
    for key in reversed(own):  # parents come before children
        found[key] = own[key] + max(
            (found[next_one] for next_one in behind.get(key, [])), default=0.0
        )
    return found
