"""Runs a whole-table stage that asks, by `next` and `send`: with any number of slots, in any order of completion."""

from __future__ import annotations

import random

from paramsurvey.engine.records import Failure
from paramsurvey.stages.base import Answers, conversation
from paramsurvey.tables import table_of
from paramsurvey.testing import StageContract


class Engine:
    """Answers what a stage asks, in this process.

    `slots` calls are "under way" at once, and which of them finishes next is drawn by `order`. `calls` has every pset
    that a worker was called with.
    """

    def __init__(self, slots=1, order=None):
        self.slots = slots
        self.order = order or random.Random(0)
        self.calls = []
        self.under_way = []
        self.number = 0

    def run(self, stage, *tables):
        """Return what the stage returns."""
        talk = conversation(stage, [table_of(table) for table in tables])
        told = None
        while True:
            try:
                ask = talk.send(told)
            except StopIteration as stop:
                return stop.value
            told = self.answer(ask)

    def answer(self, ask):
        psets = list(ask.psets)
        self.calls += [dict(pset) for pset in psets]
        if getattr(ask, "until", "all") == "all":
            return StageContract().answer(ask)
        self.under_way += [(self.number + place, pset) for place, pset in enumerate(psets)]
        self.number += len(psets)
        rows, lost, seconds = [], [], {}
        for _ in range(self.order.randint(1, self.slots)):
            if self.under_way:
                number, pset = self.under_way.pop(self.order.randrange(min(self.slots, len(self.under_way))))
                try:
                    rows.append((number, pset | (ask.worker(dict(pset), {}, ask.options.get("user_kwargs")) or {})))
                    seconds[number] = 0.5
                except Exception as exc:
                    lost.append((number, Failure("raised", repr(exc))))
        return Answers(rows, lost, len(self.under_way), self.slots, seconds)
