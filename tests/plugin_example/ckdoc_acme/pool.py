from collections import deque
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import cpu_count, get_context


class PoolWorkers:
    def __init__(self, pool, count):
        self.pool, self.count = pool, count

    def map(self, function, tasks):
        begun = deque()
        for task in tasks:
            begun.append(self.pool.submit(function, task))
            if len(begun) > 4 * self.count:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()


class PoolEngine:
    name = "pool"

    @contextmanager
    def start(self, jobs=None):
        count = jobs or cpu_count()
        with ProcessPoolExecutor(count, get_context("spawn")) as pool:
            yield PoolWorkers(pool, count)


engine = PoolEngine()
