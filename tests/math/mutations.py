"""Every formula broken in turn: the table that break.py applies, one row at a time, to a copy of the project.

A new formula brings its rows: a sign, a denominator, a ratio, a mask. Leave out what changes no value (an equal form)."""

from __future__ import annotations

import mutations_alignment
import mutations_benchmarks
import mutations_data
import mutations_drift
import mutations_factory
import mutations_forward
import mutations_human
import mutations_intervals
import mutations_methods
import mutations_objectives
import mutations_packed
import mutations_passes
import mutations_reading
import mutations_report
import mutations_rewards
import mutations_runs
import mutations_steps
from mutation import Mutation

MUTATIONS: list[Mutation] = [
    *mutations_objectives.MUTATIONS,
    *mutations_methods.MUTATIONS,
    *mutations_passes.MUTATIONS,
    *mutations_steps.MUTATIONS,
    *mutations_forward.MUTATIONS,
    *mutations_packed.MUTATIONS,
    *mutations_reading.MUTATIONS,
    *mutations_report.MUTATIONS,
    *mutations_drift.MUTATIONS,
    *mutations_runs.MUTATIONS,
    *mutations_factory.MUTATIONS,
    *mutations_data.MUTATIONS,
    *mutations_intervals.MUTATIONS,
    *mutations_human.MUTATIONS,
    *mutations_rewards.MUTATIONS,
    *mutations_benchmarks.MUTATIONS,
    *mutations_alignment.MUTATIONS,
]
